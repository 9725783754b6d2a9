import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DefaultScope

from kdvit_mm.datasets import TeacherViews

PACK = dict(type='PackInputs')


def branch(size):
    return [dict(type='Resize', scale=(size, size)), PACK]


def views(student=8, **sizes):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return TeacherViews(
            student=branch(student),
            views={name: branch(size) for name, size in sizes.items()},
        )


def image():
    rng = np.random.default_rng(0)
    return dict(
        img=rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
        gt_label=3,
        img_shape=(16, 16),
    )


def test_each_view_has_its_own_transforms():
    found = views(8, large=32, same=16)(image())
    assert found['inputs'].shape == (3, 8, 8)
    assert found['large']['inputs'].shape == (3, 32, 32)
    same = torch.from_numpy(image()['img']).permute(2, 0, 1)
    assert torch.equal(found['same']['inputs'], same)
    assert found['large']['data_samples'].gt_label == 3
    assert found['data_samples'].img_shape == (8, 8)
    assert found['large']['data_samples'].img_shape == (32, 32)


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
def test_batches_of_views(collate):
    transform = views(8, large=32)
    batch = collate([transform(image()) for _ in range(2)])
    assert len(batch['large']['inputs']) == 2
    assert len(batch['large']['data_samples']) == 2


def test_an_image_that_one_branch_leaves_out_is_left_out():
    transform = views(8, large=32)
    transform.views['large'].transforms.append(lambda results: None)
    assert transform(image()) is None
    transform = views(8, large=32)
    transform.student.transforms.append(lambda results: None)
    assert transform(image()) is None


def test_names_of_what_is_packed_are_refused():
    with pytest.raises(ValueError, match='cannot be named "inputs"'):
        views(8, inputs=32)
