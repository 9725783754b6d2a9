import pytest
import torch

from kdvit_mm.registry import MODELS
from tests import tiny
from tests.loss_checks import classification_batch


def build(**changes):
    config = dict(
        tiny.resnet().data_preprocessor,
        type='kdvit_mm.RotatedViewsDataPreprocessor',
    )
    return MODELS.build(config | changes)


def test_rows_are_the_rotations_of_each_image():
    plain = MODELS.build(
        dict(
            tiny.resnet().data_preprocessor,
            type='mmpretrain.ClsDataPreprocessor',
        )
    )
    images = plain(classification_batch(), True)['inputs']
    batch = build()(classification_batch(), True)
    assert batch['inputs'].shape == (16, 3, 32, 32)
    for row, image in enumerate(batch['inputs']):
        turned = torch.rot90(images[row // 4], row % 4, (1, 2))
        assert torch.equal(image, turned)
    labels = [sample.gt_label.item() for sample in batch['data_samples']]
    assert labels == [3] * 4 + [0] * 4 + [3] * 4 + [9] * 4
    views = [sample.view for sample in batch['data_samples']]
    assert views == [0, 90, 180, 270] * 4


@pytest.mark.parametrize('collated', [True, False])
def test_batches_for_testing_stay_as_they_are(collated):
    batch = classification_batch()
    if collated:
        batch['inputs'] = torch.stack(batch['inputs'])
    found = build()(batch, False)
    assert found['inputs'].shape == (4, 3, 32, 32)
    assert len(found['data_samples']) == 4
    assert 'view' not in found['data_samples'][0]
    assert build()(batch, True)['inputs'].shape == (16, 3, 32, 32)


def test_errors():
    with pytest.raises(ValueError, match='remove batch_augments'):
        build(batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))
    batch = dict(classification_batch(), inputs=[torch.ones(3, 32, 24)] * 4)
    with pytest.raises(ValueError, match=r'3, 32, 24\).*Crop squares'):
        build()(batch, True)
