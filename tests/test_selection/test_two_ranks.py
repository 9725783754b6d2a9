import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_ranks_with_other_images_learn_the_same(tmp_path):
    script = str(Path(__file__).with_name('two_ranks.py'))
    outs = [str(tmp_path / f'{rank}.pth') for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path / 'store'), out, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0, output
    for one, other in zip(*map(torch.load, outs), strict=True):
        assert one['state'].keys() == other['state'].keys()
        for key, tensor in one['state'].items():
            assert torch.equal(tensor, other['state'][key]), key
        assert one['returns'] == other['returns']
        assert all(one['returns'][:3])
        assert one['returns'][3] == {}
        if any('weight' in key for key in one['state']):
            assert one['moved'] > 0
    # The same images in the same step: each rank draws for itself.
    for index in range(3):
        assert not torch.equal(
            torch.load(outs[0])[index]['levels'],
            torch.load(outs[1])[index]['levels'],
        )
