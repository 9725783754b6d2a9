"""Trains configs on two ranks, one after the other.

Run as a script it is one of the ranks.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kdvit_mm.engine.hooks import KnowledgeCondensationHook


def on_two_ranks(
    folder: Path, configs: list[Config]
) -> list[list[dict[str, Any]]]:
    """What :func:`result` gives of each config, for each rank."""
    files = [folder / f'{index}.py' for index in range(len(configs))]
    for cfg, file in zip(configs, files, strict=True):
        cfg.dump(file)
    outs = [folder / f'rank_{rank}.pth' for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), folder / 'store', out,
             *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    for rank in ranks:
        output, _ = rank.communicate(timeout=600)
        assert rank.returncode == 0, output[-3000:]
    return [torch.load(out, weights_only=False) for out in outs]


def result(runner: Runner) -> dict[str, Any]:
    """What a training leaves behind."""
    model = getattr(runner.model, 'module', runner.model)
    condensations = [
        hook.condensation.state()
        for hook in runner.hooks
        if isinstance(hook, KnowledgeCondensationHook)
    ]
    return dict(
        student=model.student.state_dict(),
        optimiser=runner.optim_wrapper.state_dict(),
        condensations=condensations,
        iterations=runner.iter,
    )


def train(file: str, rank: str, store: str) -> dict[str, Any]:
    cfg = Config.fromfile(file)
    cfg.launcher = 'pytorch'
    cfg.env_cfg.dist_cfg = dict(
        backend='gloo',
        init_method=f'file://{store}',
        rank=int(rank),
        world_size=2,
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    return result(runner)


if __name__ == '__main__':
    rank, store, out, *files = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2')
    torch.save([train(file, rank, store) for file in files], out)
