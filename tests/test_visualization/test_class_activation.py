import importlib.util
import sys

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from kdvit_mm.visualization.class_activation import (
    activation_map,
    averages_and_classifies,
    class_map,
)
from tests import tiny

grad_cam = pytest.mark.skipif(
    importlib.util.find_spec('pytorch_grad_cam') is None,
    reason='grad-cam is not installed (requirements/nodeps.txt)',
)


def build(config):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(ConfigDict(config))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    # As a frozen teacher.
    return model.eval().requires_grad_(False)


def resnet(**changes):
    return build(tiny.resnet() | changes)


def transformer(**backbone):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=16,
                    num_layers=2,
                    num_heads=2,
                    feedforward_channels=32,
                ),
                img_size=(32, 64),
                patch_size=8,
            )
            | backbone,
            head=dict(
                type='VisionTransformerClsHead',
                num_classes=tiny.CLASSES,
                in_channels=16,
            ),
        )
    )


def image(height=32, width=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, height, width, generator=generator)


def test_mean_of_the_class_map_is_the_logit():
    model = resnet()
    logits = model(image())[0] - model.head.fc.bias
    for label in (0, 7):
        found = class_map(model, image(), label)
        assert found.shape == (4, 8)
        assert found.mean() == pytest.approx(logits[label].item(), rel=1e-5)


def test_map_is_where_the_class_is():
    """A channel that is active in one corner and the only one of a class."""
    model = resnet()
    last = torch.zeros(1, 32, 4, 8)
    last[0, 3, 0, 0] = 5
    last[0, 4, 3, 7] = 5
    model.backbone.forward = lambda image: (last,)
    weight = model.head.fc.weight
    weight.zero_()
    weight[2, 3], weight[2, 4] = 1, -1
    found = activation_map(model, image(), 2)
    assert found.shape == (32, 64)
    assert found.max() == found[0, 0] == 1
    # 8 pixels are a place, and it fades half a place further on.
    assert (found[12:] == 0).all() and (found[:, 12:] == 0).all()
    expected = np.clip((11.5 - np.arange(12)) / 8, 0, 1)
    np.testing.assert_allclose(found[0, :12], expected, atol=1e-6)


def test_a_class_that_nothing_speaks_for_gives_zeros():
    model = resnet()
    model.backbone.forward = lambda image: (torch.ones(1, 32, 4, 8),)
    model.head.fc.weight.fill_(-1)
    assert (activation_map(model, image(), 0) == 0).all()


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, True),
        (dict(neck=dict(type='GeneralizedMeanPooling')), False),
        (
            dict(
                head=dict(
                    type='StackedLinearClsHead',
                    num_classes=tiny.CLASSES,
                    in_channels=32,
                    mid_channels=[8],
                )
            ),
            False,
        ),
    ],
)
def test_tells_who_has_a_class_map(changes, expected):
    assert averages_and_classifies(resnet(**changes)) == expected


@grad_cam
def test_grad_cam_is_the_class_map_where_there_is_one():
    model = resnet()
    found = activation_map(model, image(), 3)
    assert found.min() == 0 and found.max() == 1
    model.neck.gap = torch.nn.AvgPool2d((4, 8))  # the same, in disguise
    assert not averages_and_classifies(model)
    np.testing.assert_allclose(
        activation_map(model, image(), 3), found, atol=1e-4
    )


def by_hand(model, layer, label):
    """Grad-CAM of a layer of shape (N, C, ...) or (N, tokens, C)."""
    kept = []

    def keep(part, inputs, output):
        kept.append(output)
        return output.clone()  # for what works in place

    handle = layer.register_forward_hook(keep)
    score = model(image().requires_grad_())[0, label]
    handle.remove()
    (output,) = kept
    (slope,) = torch.autograd.grad(score, output)
    if output.dim() == 3:
        extra = model.backbone.num_extra_tokens
        output, slope = (
            x[:, extra:].mT.unflatten(2, (4, 8)) for x in (output, slope)
        )
    cells = (output * slope.mean((2, 3), keepdim=True)).sum(1)[0].relu()
    return cells.detach().numpy()


def assert_shows(found, cells):
    """The middle of each place, up to the resizing and what scales it."""
    assert found.shape == (32, 64) and cells.std() > 0
    middle = found.reshape(4, 8, 8, 8)[:, 3:5, :, 3:5].mean((1, 3))
    assert np.corrcoef(middle.ravel(), cells.ravel())[0, 1] > 0.99


@grad_cam
@pytest.mark.parametrize(
    'backbone', [{}, dict(out_type='avg_featmap', with_cls_token=False)]
)
def test_grad_cam_of_a_transformer(backbone):
    model = transformer(**backbone)
    layer = model.backbone.layers[-1].ln1
    for label in range(tiny.CLASSES):
        cells = by_hand(model, layer, label)
        found = activation_map(model, image(), label)
        if cells.max() > 0:
            assert_shows(found, cells)
        else:
            assert (found == 0).all()
        assert np.array_equal(
            activation_map(model, image(), label, 'backbone.layers.1.ln1'),
            found,
        )
    first = activation_map(model, image(), label, 'backbone.layers.0.ln1')
    assert not np.allclose(first, found, atol=0.01)


@grad_cam
def test_grad_cam_of_a_layer_that_is_overwritten_in_place():
    model = resnet()
    block = model.backbone.layer4[1]
    assert block.relu.inplace
    cells = by_hand(model, block.bn2, 3)
    assert_shows(
        activation_map(model, image(), 3, 'backbone.layer4.1.bn2'), cells
    )


@grad_cam
def test_refuses_layers_without_a_map():
    model = transformer()
    with pytest.raises(
        ValueError, match=r'no "backbone\.layers\.1\.ln3"\. Did'
    ):
        activation_map(model, image(), 0, 'backbone.layers.1.ln3')
    with pytest.raises(
        ValueError, match=r'the shape \(1, 10\), which is not a'
    ):
        activation_map(model, image(), 0, 'head.layers.head')
    model.backbone.named_modules = lambda: iter(())
    with pytest.raises(ValueError, match='VisionTransformer returns no map'):
        activation_map(model, image(), 0)


def test_says_how_to_install_grad_cam(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(ImportError, match=r'requirements/nodeps\.txt'):
        activation_map(transformer(), image(), 0)
