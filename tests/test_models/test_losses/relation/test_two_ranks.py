import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.resume_checks import DISTILLED, read_config
from tests.test_models.test_losses.relation import test_cirkd, test_crd
from tests.test_models.test_losses.relation.two_ranks import (
    contrasted,
    paired,
    remembered,
)

pytestmark = pytest.mark.usefixtures('forked')
#: State of the two losses, in checkpoints.
STATE = ('bank_s', 'pixel_queue')


def configs(digits, folder):
    """CRD and CIRKD, each straight, half and resumed."""
    files = []
    for task, distiller in (
        ('cls', test_crd.DISTILLER),
        ('seg', test_cirkd.DISTILLER),
    ):
        for part in ('straight', 'half', 'resumed'):
            name = f'{task}_{"half" if part == "resumed" else part}'
            cfg = read_config(DISTILLED[task], digits, folder / name, 2)
            cfg.model.distiller = distiller
            cfg.launcher = 'pytorch'
            cfg.randomness = dict(seed=0, diff_rank_seed=True)
            if part == 'half':
                unit = 'max_epochs' if task == 'cls' else 'max_iters'
                hook = dict(type='mmengine.StopAfter', unit=unit)
                cfg.custom_hooks.append(hook)
            if part == 'resumed':
                cfg.resume = True
                cfg.experiment_name = f'{task}_resumed'
            files.append(folder / f'{task}_{part}.py')
            cfg.dump(files[-1])
    return files


@pytest.fixture(scope='module')
def ranks(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('two_ranks')
    files = configs(digits, folder)
    script = str(Path(__file__).with_name('two_ranks.py'))
    outs = [folder / f'{rank}.pth' for rank in range(2)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                script,
                folder / 'store',
                out,
                str(rank),
                *files,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]
    return [torch.load(out, weights_only=False) for out in outs]


@pytest.mark.slow
def test_rows_of_both_ranks(ranks):
    one, other = (found['gathered'] for found in ranks)
    rows = torch.tensor([[0.0, 1, 2], [3, 4, 5], [10, 11, 12]])
    assert torch.equal(one['rows'], rows)
    assert torch.equal(other['rows'], rows)
    # Once by each rank, which weighs its loss by 1 and by 2.
    assert torch.equal(one['grad'], 6 * rows[:2])
    assert torch.equal(other['grad'], 6 * rows[2:])
    for found in one, other:
        assert '[[2, 3], [2, 4]]. Crop or resize' in found['message']


@pytest.mark.slow
def test_pairs_are_those_of_the_whole_batch(ranks):
    one, other = (found['paired'] for found in ranks)
    whole = paired(slice(None))
    mean = (one['loss'] + other['loss']) / 2
    assert mean == pytest.approx(whole['loss'], rel=1e-12)
    # DistributedDataParallel takes the mean.
    grad = torch.cat([one['grad'], other['grad']]) / 2
    torch.testing.assert_close(grad, whole['grad'])
    for found, part in (one, slice(0, 2)), (other, slice(2, 4)):
        assert found['alone'] == pytest.approx(paired(part)['loss'])


@pytest.mark.slow
def test_queues_are_equal_and_of_all_images(ranks):
    one, other = (found['remembered'] for found in ranks)
    whole = remembered(slice(None))
    for key, x in one['state'].items():
        assert torch.equal(x, other['state'][key]), key
        # Which pixels are added is drawn anew.
        if key != 'pixel_queue':
            torch.testing.assert_close(x, whole['state'][key])
    assert one['state']['pixel_count'].max() > 70, 'a ring was full'
    assert one['grad'].abs().sum() > 0


@pytest.mark.slow
def test_banks_are_equal_and_of_all_images(ranks):
    one, other = (found['contrasted'] for found in ranks)
    whole = contrasted(None)
    for key, x in one.items():
        assert torch.equal(x, other[key]), key
        torch.testing.assert_close(x, whole[key])


@pytest.mark.slow
def test_trainings_are_equal_on_both_ranks_and_resume(ranks):
    for straight, _, resumed in (
        ranks[0]['trained'][:3],
        ranks[0]['trained'][3:],
    ):
        assert any(part in key for key in straight for part in STATE)
        assert straight.keys() == resumed.keys()
        assert all(torch.equal(x, resumed[k]) for k, x in straight.items())
    for one, other in zip(*(x['trained'] for x in ranks), strict=True):
        # Running statistics are of each rank's own images, of the first's
        # after a resume.
        for key in one:
            if 'running_' not in key:
                assert torch.equal(one[key], other[key]), key
