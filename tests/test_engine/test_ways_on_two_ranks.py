"""Mutual and self-distillation with two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.resume_checks import read_config
from tests.test_engine.test_ema_teacher import NAMES
from tests.test_models.test_algorithms.test_mutual_distill import MUTUAL
from tests.test_models.test_algorithms.test_self_distill import SELF


@pytest.mark.usefixtures('forked')
def test_ranks_have_equal_weights(digits, tmp_path):
    """Distillation of the last run stops, and with it its branches' losses."""
    configs = [
        read_config(name, digits, tmp_path / name.split('_')[0], 2)
        for name in (MUTUAL['cls'], NAMES['cls'], SELF['cls'])
    ]
    configs[-1].custom_hooks.append(
        dict(
            type='kdvit_mm.DistillScheduleHook',
            schedules=[dict(loss='*', type='stop', begin=1)],
        )
    )
    files = [tmp_path / f'{index}.py' for index in range(len(configs))]
    for cfg, file in zip(configs, files, strict=True):
        cfg.randomness = dict(seed=0, diff_rank_seed=True)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.dump(file)
    script = str(Path(__file__).with_name('ways_on_two_ranks.py'))
    outs = [str(tmp_path / f'rank_{rank}.pth') for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / 's', out, str(rank), *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        for rank, out in enumerate(outs)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=3000)
        assert rank.returncode == 0, output[-3000:]
    one, other = (torch.load(out, weights_only=False) for out in outs)
    assert len(one) == len(other) == 3
    for first, second in zip(one, other, strict=True):
        # 40 crops, in batches of 4 on each of two ranks, twice.
        assert first['steps'] == second['steps'] == 10
        for part in ('weights', 'teacher'):
            assert first[part].keys() == second[part].keys()
            for key, value in first[part].items():
                assert torch.equal(value, second[part][key]), key
