"""MobileNetV1 is the plain network of its paper, layer by layer."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

# Channels and strides of the separable convolutions.
BLOCKS = [
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
]  # fmt: skip


def plain() -> nn.Sequential:
    layers: list[nn.Module] = []

    def add(before, after, kernel, stride=1, groups=1):
        layers.extend(
            [
                nn.Conv2d(
                    before, after, kernel, stride, kernel // 2,
                    groups=groups, bias=False,
                ),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        )  # fmt: skip

    add(3, 32, 3, 2)
    before = 32
    for channels, stride in BLOCKS:
        add(before, before, 3, stride, before)
        add(before, channels, 1)
        before = channels
    return nn.Sequential(*layers)


def test_is_the_plain_network():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type='kdvit_mm.MobileNetV1', out_indices=(0, 1, 2, 3))
    )
    model.init_weights()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters + 1024 * 1000 + 1000 == 4231976
    reference = plain()
    weights = [*model.state_dict().values()]
    assert len(weights) == len(reference.state_dict())
    reference.load_state_dict(
        dict(zip(reference.state_dict(), weights, strict=True))
    )
    images = torch.randn(2, 3, 64, 96)
    model.eval()  # which returns nothing
    maps = model(images)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (128, 16, 24), (256, 8, 12), (512, 4, 6), (1024, 2, 3),
    ]  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(maps[-1], reference.eval()(images))
        torch.testing.assert_close(maps[0], reference[:21](images))


def test_refuses_a_stage_that_there_is_not():
    with pytest.raises(ValueError, match='take them from 0 to 3'):
        MODELS.build(dict(type='kdvit_mm.MobileNetV1', out_indices=(4,)))
