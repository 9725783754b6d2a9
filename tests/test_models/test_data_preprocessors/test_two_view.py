import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmpretrain.registry import TRANSFORMS

from kdvit_mm.registry import MODELS
from tests import tiny

WEAK = [dict(type='mmpretrain.Resize', scale=16)]
STRONG = [*WEAK, dict(type='mmpretrain.Solarize', thr=0, prob=1.0)]


def batch(collate, views=2, number=3):
    """What a data loader hands over; strong views are inverted images."""
    wrap = dict(
        type='MultiView',
        num_views=[1] * views,
        transforms=[WEAK, STRONG, WEAK][:views],
    )
    transforms = ([wrap] if views else WEAK) + [dict(type='PackInputs')]
    pipeline = Compose([TRANSFORMS.build(one) for one in transforms])
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(number, 16, 16, 3), dtype=np.uint8)
    items = [
        pipeline(dict(img=image, gt_label=label, sample_idx=label))
        for label, image in enumerate(images)
    ]
    return collate(items), torch.from_numpy(images).permute(0, 3, 1, 2)


def preprocessor(**options):
    config = dict(tiny.resnet().data_preprocessor)
    config['type'] = 'kdvit_mm.TwoViewDataPreprocessor'
    return MODELS.build({**config, **options})


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_weak_then_strong_views(collate):
    data, images = batch(collate)
    found = preprocessor()(data, True)
    inputs, samples = found['inputs'], found['data_samples']
    weak = (images - 127.0) / 60
    strong = (255 - images - 127.0) / 60
    torch.testing.assert_close(inputs, torch.cat([weak, strong]))
    assert [sample.gt_label.item() for sample in samples] == [0, 1, 2] * 2
    views = [sample.view for sample in samples]
    assert views == ['weak'] * 3 + ['strong'] * 3
    assert len({id(sample) for sample in samples}) == 6
    # The loader's own samples stay as they were.
    assert all('view' not in sample for sample in data['data_samples'])


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_one_image(collate):
    data, _ = batch(collate, number=1)
    assert preprocessor()(data, True)['inputs'].shape == (2, 3, 16, 16)


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_validation_is_untouched(collate):
    data, _ = batch(collate, views=0)
    found = preprocessor()(data)
    plain = MODELS.build(
        dict(tiny.resnet().data_preprocessor, type='ClsDataPreprocessor'),
        default_args=dict(_scope_='mmpretrain'),
    )
    torch.testing.assert_close(found['inputs'], plain(data)['inputs'])
    assert found['data_samples'] == data['data_samples']


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_errors(collate):
    with pytest.raises(ValueError, match=r"one view .*type='mmpretrain.Multi"):
        preprocessor()(batch(collate, views=0)[0], True)
    with pytest.raises(ValueError, match=r'got 3 views.*num_views=\[1, 1\]'):
        preprocessor()(batch(collate, views=3)[0], True)
    with pytest.raises(ValueError, match=r'remove batch_augments.*weak with'):
        preprocessor(
            batch_augments=dict(augments=dict(type='Mixup', alpha=1.0))
        )
