"""mdistiller's checkpoints give mdistiller's logits in mmpretrain."""

from functools import partial

import pytest
import torch
from mmpretrain import get_model

from tests.mdistiller_nets import NETWORKS
from tests.test_tools.test_scripts import ROOT, run_here

MODELS = ROOT / 'configs' / '_base_' / 'models'


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)


def checkpoint(folder, name: str, classes: int = 100):
    """A checkpoint as mdistiller writes it, and the logits of the images."""
    weights, maps = NETWORKS[name].run(images(), classes)
    path = folder / 'ckpt_epoch_240.pth'
    weights = {
        key: x.float() if x.is_floating_point() else x
        for key, x in weights.items()
    }
    best = torch.tensor(79.42)
    torch.save(dict(epoch=240, model=weights, best_acc=best), path)
    return path, maps.logits.float()


@pytest.fixture
def convert():
    return partial(run_here, 'model_converters/mdistiller_to_mmpretrain.py')


# One of each family; all are converted in test_cifar_networks.py.
@pytest.mark.parametrize(
    'name',
    [
        'resnet8x4',
        'ResNet50',
        'wrn_16_2',
        'vgg13',
        'MobileNetV2',
        'ShuffleV1',
        'ShuffleV2',
    ],
)
def test_finds_the_architecture_and_keeps_the_logits(
    name, convert, capsys, tmp_path
):
    given, logits = checkpoint(tmp_path, name)
    out = tmp_path / 'new' / 'converted.pth'
    convert(given, out)
    config = f'{NETWORKS[name].config}_cifar100.py'
    assert f'{name} of 100 classes, for {config}: ' in capsys.readouterr().out
    model = get_model(str(MODELS / config), str(out)).eval()
    with torch.no_grad():
        found = model(images().float())
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


def test_other_numbers_of_classes(convert, capsys, tmp_path):
    given, _ = checkpoint(tmp_path, 'vgg8', classes=7)
    convert(given, tmp_path / 'out.pth', '--arch', 'vgg8')
    assert 'vgg8 of 7 classes' in capsys.readouterr().out
    state = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert state['head.fc.weight'].shape == (7, 512)


def test_says_what_does_not_fit(convert, tmp_path):
    given, _ = checkpoint(tmp_path, 'wrn_16_2')
    out = tmp_path / 'out.pth'
    with pytest.raises(
        SystemExit,
        match=r'does not hold wrn_40_2: of the weights of wrn_40_2, 144 .* '
        r'such as backbone\.layer1\.2\.bn1\.weight',
    ):
        convert(given, out, '--arch', 'wrn_40_2')
    torch.save({'state_dict': {'a': torch.zeros(1)}}, given)
    with pytest.raises(SystemExit, match='does not hold any of resnet20, '):
        convert(given, out)
    assert not out.exists()
