"""mdistiller's CIFAR networks as plain computations, from a reading of it.

A :class:`Net` computes with random weights and keeps them under mdistiller's
names (https://github.com/megvii-research/mdistiller at a08d46f,
``mdistiller/models/cifar``), as a checkpoint of it would hold them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F


class Maps(NamedTuple):
    """What a network computes.

    Attributes:
        stages: Maps of the stages, without the stem's.
        preact: The same before their ReLU.
        logits: Of shape (N, classes).
    """

    stages: list[torch.Tensor]
    preact: list[torch.Tensor]
    logits: torch.Tensor


class Net:
    """Makes weights as they are needed."""

    def __init__(self, seed: int = 0) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(
            *shape, generator=self.generator, dtype=torch.float64
        )

    def make(self, name: str, value: torch.Tensor) -> torch.Tensor:
        self.weights[name] = value
        return value

    def conv(self, name, x, out, kernel=3, stride=1, groups=1, bias=False):
        fan_in = x.shape[1] // groups * kernel**2
        weight = self.random(out, x.shape[1] // groups, kernel, kernel)
        weight = self.make(f'{name}.weight', weight * (2 / fan_in) ** 0.5)
        shift = self.make(f'{name}.bias', self.random(out)) if bias else None
        return F.conv2d(
            x, weight, shift, stride, padding=kernel // 2, groups=groups
        )

    def bn(self, name, x):
        number = x.shape[1]
        # Small, so that the maps do not grow over a hundred layers.
        weight = self.make(f'{name}.weight', 0.4 + 0.1 * self.random(number))
        bias = self.make(f'{name}.bias', 0.1 * self.random(number))
        mean = self.make(f'{name}.running_mean', 0.1 * self.random(number))
        var = self.make(f'{name}.running_var', self.random(number).exp())
        self.make(f'{name}.num_batches_tracked', torch.tensor(7))
        x = (x - mean[:, None, None]) / (var + 1e-5)[:, None, None].sqrt()
        return x * weight[:, None, None] + bias[:, None, None]

    def conv_bn_relu(self, conv, bn, x, out, *args, **kwargs):
        return F.relu(self.bn(bn, self.conv(conv, x, out, *args, **kwargs)))

    def linear(self, name, x, classes):
        weight = self.random(classes, x.shape[1]) / x.shape[1] ** 0.5
        weight = self.make(f'{name}.weight', weight)
        bias = self.make(f'{name}.bias', self.random(classes))
        return x.mean((2, 3)) @ weight.T + bias


def resnet(net, x, classes, depth, stem, base):
    x = net.conv_bn_relu('conv1', 'bn1', x, stem)
    stages, preact = [], []
    for stage in range(3):
        for block in range((depth - 2) // 6):
            name = f'layer{stage + 1}.{block}.'
            out, stride = base * 2**stage, 2 if stage and not block else 1
            y = net.conv_bn_relu(
                f'{name}conv1', f'{name}bn1', x, out, stride=stride
            )
            y = net.bn(f'{name}bn2', net.conv(f'{name}conv2', y, out))
            if y.shape != x.shape:
                x = net.conv(f'{name}downsample.0', x, out, 1, stride)
                x = net.bn(f'{name}downsample.1', x)
            y = y + x
            x = F.relu(y)
        stages.append(x)
        preact.append(y)
    return Maps(stages, preact, net.linear('fc', x, classes))


def resnet50(net, x, classes):
    x = net.conv_bn_relu('conv1', 'bn1', x, 64)
    stages, preact = [], []
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}.'
            width, stride = 64 * 2**stage, 2 if stage and not block else 1
            y = net.conv_bn_relu(f'{name}conv1', f'{name}bn1', x, width, 1)
            y = net.conv_bn_relu(
                f'{name}conv2', f'{name}bn2', y, width, stride=stride
            )
            y = net.bn(f'{name}bn3', net.conv(f'{name}conv3', y, 4 * width, 1))
            if y.shape != x.shape:
                x = net.conv(f'{name}shortcut.0', x, 4 * width, 1, stride)
                x = net.bn(f'{name}shortcut.1', x)
            y = y + x
            x = F.relu(y)
        stages.append(x)
        preact.append(y)
    return Maps(stages, preact, net.linear('linear', x, classes))


def wrn(net, x, classes, depth, factor):
    x = net.conv('conv1', x, 16)
    stages, preact = [], []
    for stage in range(3):
        for block in range((depth - 4) // 6):
            name = f'block{stage + 1}.layer.{block}.'
            out, stride = (
                16 * 2**stage * factor,
                1 if block else 1 + (stage > 0),
            )
            before = net.bn(f'{name}bn1', x)
            if stage and not block:
                preact.append(before)
            y = net.conv(f'{name}conv1', F.relu(before), out, stride=stride)
            y = F.relu(net.bn(f'{name}bn2', y))
            y = net.conv(f'{name}conv2', y, out)
            if y.shape[1] != x.shape[1]:
                x = net.conv(
                    f'{name}convShortcut', F.relu(before), out, 1, stride
                )
            x = x + y
        stages.append(x)
    preact.append(net.bn('bn1', x))
    stages.append(F.relu(preact[-1]))
    return Maps(stages, preact, net.linear('fc', stages[-1], classes))


def vgg(net, x, classes, convs):
    stages, preact = [], []
    for group, out in enumerate((64, 128, 256, 512, 512)):
        if group in (1, 2, 3):
            x = F.max_pool2d(x, 2)
        for index in range(convs):
            name = f'block{group}.{3 * index}'
            y = net.conv(name, x, out, bias=True)
            y = net.bn(f'block{group}.{3 * index + 1}', y)
            x = F.relu(y)
        if group:
            stages.append(x)
            preact.append(y)
    return Maps(stages, preact, net.linear('classifier', x, classes))


def mobilenet_v2(net, x, classes):
    x = net.conv_bn_relu('conv1.0', 'conv1.1', x, 16, stride=2)
    groups = []
    for group, (expand, out, blocks, stride) in enumerate(
        (
            (1, 8, 1, 1),
            (6, 12, 2, 1),
            (6, 16, 3, 2),
            (6, 32, 4, 2),
            (6, 48, 3, 1),
            (6, 80, 3, 2),
            (6, 160, 1, 1),
        )
    ):
        for block in range(blocks):
            name = f'blocks.{group}.{block}.conv.'
            wide = expand * x.shape[1]
            y = net.conv_bn_relu(f'{name}0', f'{name}1', x, wide, 1)
            y = net.conv_bn_relu(
                f'{name}3',
                f'{name}4',
                y,
                wide,
                3,
                1 if block else stride,
                wide,
            )
            y = net.bn(f'{name}7', net.conv(f'{name}6', y, out, 1))
            x = x + y if y.shape == x.shape else y
        groups.append(x)
    stages = [groups[index] for index in (1, 2, 4, 6)]
    x = net.conv_bn_relu('conv2.0', 'conv2.1', x, 1280, 1)
    return Maps([*stages, x], stages, net.linear('classifier.0', x, classes))


def shuffled(x, groups):
    order = torch.arange(x.shape[1]).reshape(groups, -1).T.reshape(-1)
    return x[:, order]


def shufflenet_v1(net, x, classes):
    x = net.conv_bn_relu('conv1', 'bn1', x, 24, 1)
    stages, preact = [], []
    for stage, (out, units) in enumerate(((240, 4), (480, 8), (960, 4))):
        for unit in range(units):
            name = f'layer{stage + 1}.{unit}.'
            new, stride = (out, 1) if unit else (out - x.shape[1], 2)
            first = 3 if stage or unit else 1
            y = net.conv_bn_relu(
                f'{name}conv1', f'{name}bn1', x, new // 4, 1, groups=first
            )
            y = net.conv_bn_relu(
                f'{name}conv2', f'{name}bn2', shuffled(y, first), new // 4,
                stride=stride, groups=new // 4,
            )  # fmt: skip
            y = net.conv(f'{name}conv3', y, new, 1, groups=3)
            y = net.bn(f'{name}bn3', y)
            x = x if unit else F.avg_pool2d(x, 3, 2, 1)
            y = y + x if unit else torch.cat([y, x], 1)
            x = F.relu(y)
        stages.append(x)
        preact.append(y)
    return Maps(stages, preact, net.linear('linear', x, classes))


def shufflenet_v2(net, x, classes):
    def pointwise(number, y, out):
        return net.bn(
            f'{name}bn{number}', net.conv(f'{name}conv{number}', y, out, 1)
        )

    def depthwise(number, y, stride):
        out = y.shape[1]
        y = net.conv(f'{name}conv{number}', y, out, 3, stride, out)
        return net.bn(f'{name}bn{number}', y)

    x = net.conv_bn_relu('conv1', 'bn1', x, 24, 1)
    stages, preact = [], []
    for stage, (out, units) in enumerate(((116, 4), (232, 8), (464, 4))):
        for unit in range(units):
            name = f'layer{stage + 1}.{unit}.'
            half = out // 2
            if unit:
                left, right = (
                    x[:, :half],
                    F.relu(pointwise(1, x[:, half:], half)),
                )
                right = pointwise(3, depthwise(2, right, 1), half)
            else:
                left = F.relu(pointwise(2, depthwise(1, x, 2), half))
                right = depthwise(4, F.relu(pointwise(3, x, half)), 2)
                right = pointwise(5, right, half)
            y = torch.cat([left, right], 1)
            x = shuffled(torch.cat([left, F.relu(right)], 1), 2)
        stages.append(x)
        preact.append(y)
    x = net.conv_bn_relu('conv2', 'bn2', x, 1024, 1)
    return Maps([*stages, x], preact, net.linear('linear', x, classes))


class Network(NamedTuple):
    """One of mdistiller's networks.

    Attributes:
        config: The same network's config in ``configs/_base_/models``.
        parameters: Number of parameters with 100 classes, as counted on
            mdistiller's own model.
        compute: The computation.
        options: Its keyword arguments.
    """

    config: str
    parameters: int
    compute: Callable[..., Maps]
    options: dict[str, int] = {}

    def run(self, images, classes=100) -> tuple[dict[str, torch.Tensor], Maps]:
        """Random weights by mdistiller's names, and what they compute."""
        net = Net()
        maps = self.compute(net, images, classes, **self.options)
        return net.weights, maps


def _resnet(parameters: int, depth: int, width: int = 1) -> Network:
    name = f'resnet{depth}x{width}' if width > 1 else f'resnet{depth}'
    stem = 32 if width > 1 else 16
    options = dict(depth=depth, stem=stem, base=16 * width)
    return Network(name, parameters, resnet, options)


def _wrn(parameters: int, depth: int, factor: int) -> Network:
    options = dict(depth=depth, factor=factor)
    return Network(f'wrn-{depth}-{factor}', parameters, wrn, options)


# By mdistiller's names.
NETWORKS = {
    'resnet20': _resnet(278_324, 20),
    'resnet32': _resnet(472_756, 32),
    'resnet56': _resnet(861_620, 56),
    'resnet110': _resnet(1_736_564, 110),
    'resnet8x4': _resnet(1_233_540, 8, 4),
    'resnet32x4': _resnet(7_433_860, 32, 4),
    'ResNet50': Network('resnet50', 23_705_252, resnet50),
    'wrn_16_2': _wrn(703_284, 16, 2),
    'wrn_40_1': _wrn(569_780, 40, 1),
    'wrn_40_2': _wrn(2_255_156, 40, 2),
    'vgg8': Network('vgg8', 3_965_028, vgg, dict(convs=1)),
    'vgg13': Network('vgg13', 9_462_180, vgg, dict(convs=2)),
    'MobileNetV2': Network('mobilenet-v2', 812_836, mobilenet_v2),
    'ShuffleV1': Network('shufflenet-v1', 949_258, shufflenet_v1),
    'ShuffleV2': Network('shufflenet-v2', 1_355_528, shufflenet_v2),
}
