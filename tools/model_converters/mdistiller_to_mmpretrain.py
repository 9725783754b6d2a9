"""Converts a CIFAR checkpoint of mdistiller into one of mmpretrain.

IN is one of the teachers of
https://github.com/megvii-research/mdistiller/releases/tag/checkpoints, such
as resnet32x4_vanilla/ckpt_epoch_240.pth, or the student_best that its training
leaves. OUT is for the model of one of configs/_base_/models/*_cifar100.py,
which has exactly its weights; the tool says which.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn

MODEL_CONFIGS = Path(__file__).resolve().parents[2] / 'configs/_base_/models'
PARTS = ('conv', 'bn')  # of mmcv's ConvModule


def resnet(key: str) -> str:
    """Renames a weight of resnet8x4 to resnet110."""
    return key.replace('fc.', 'head.fc.')


def resnet50(key: str) -> str:
    """Renames a weight of ResNet50."""
    key = key.replace('linear.', 'head.fc.')
    return key.replace('.shortcut.', '.downsample.')


def wrn(key: str) -> str:
    """Renames a weight of a wide ResNet."""
    key = key.replace('fc.', 'head.fc.')
    key = key.replace('.convShortcut.', '.shortcut.')
    key = re.sub(r'^bn1\.', 'layer4.0.', key)
    return re.sub(r'^block(\d)\.layer\.', r'layer\1.', key)


def vgg(key: str) -> str:
    """Renames a weight of a VGG with batch norm."""

    def part(match: re.Match) -> str:
        group, place = int(match[1]), int(match[2])
        index, part = divmod(place, 3)
        stage = f'layer{group}' if group else 'conv1'
        # Three of the stages begin with the pooling.
        return f'{stage}.{index + (group in (1, 2, 3))}.{PARTS[part]}.'

    key = key.replace('classifier.', 'head.fc.')
    return re.sub(r'^block(\d)\.(\d+)\.', part, key)


def mobilenet_v2(key: str) -> str:
    """Renames a weight of MobileNetV2."""
    groups = 'layer1.0 layer1.1 layer2.0 layer3.0 layer3.1 layer4.0 layer4.1'

    def part(match: re.Match) -> str:
        group, block, place = map(int, match.groups())
        index, part = divmod(place, 3)
        where = groups.split()[group]
        if group:
            return f'{where}.{block}.conv.{index}.{PARTS[part]}.'
        # The first block is a convolution and a block without it.
        if index:
            return f'{where}.1.conv.{index - 1}.{PARTS[part]}.'
        return f'{where}.0.{part}.'

    key = key.replace('classifier.0.', 'head.fc.')
    key = re.sub(r'^conv2\.', 'layer5.', key)
    return re.sub(r'^blocks\.(\d)\.(\d)\.conv\.(\d)\.', part, key)


def shufflenet_v1(key: str) -> str:
    """Renames a weight of ShuffleNetV1."""
    key = key.replace('linear.', 'head.fc.')
    key = re.sub(r'^conv1\.', 'conv1.0.', key)
    key = re.sub(r'^bn1\.', 'conv1.1.', key)
    return re.sub(r'\.(conv|bn)(\d)\.', r'.conv\2.\1.', key)


def shufflenet_v2(key: str) -> str:
    """Renames a weight of ShuffleNetV2."""

    def part(match: re.Match) -> str:
        unit, part, number = match[2], match[3], int(match[4])
        # The first unit of a stage has two convolutions in its first branch.
        left = 2 if unit == '0' else 0
        if number <= left:
            return f'{match[1]}.{unit}.branch1.{number - 1}.{part}.'
        return f'{match[1]}.{unit}.branch2.{number - left - 1}.{part}.'

    key = key.replace('linear.', 'head.fc.')
    key = re.sub(r'^conv1\.', 'conv1.0.', key)
    key = re.sub(r'^bn1\.', 'conv1.1.', key)
    key = re.sub(r'^conv2\.', 'layer4.0.', key)
    key = re.sub(r'^bn2\.', 'layer4.1.', key)
    return re.sub(r'^(layer\d)\.(\d)\.(conv|bn)(\d)\.', part, key)


class Architecture(NamedTuple):
    """A model of mdistiller.

    Attributes:
        config (str): The same model's config in ``configs/_base_/models``.
        rename (Callable): Turns the name of a weight there into one here.
    """

    config: str
    rename: Callable[[str], str]


# By mdistiller's names.
ARCHITECTURES = {
    'resnet20': Architecture('resnet20', resnet),
    'resnet32': Architecture('resnet32', resnet),
    'resnet56': Architecture('resnet56', resnet),
    'resnet110': Architecture('resnet110', resnet),
    'resnet8x4': Architecture('resnet8x4', resnet),
    'resnet32x4': Architecture('resnet32x4', resnet),
    'ResNet50': Architecture('resnet50', resnet50),
    'wrn_16_2': Architecture('wrn-16-2', wrn),
    'wrn_40_1': Architecture('wrn-40-1', wrn),
    'wrn_40_2': Architecture('wrn-40-2', wrn),
    'vgg8': Architecture('vgg8', vgg),
    'vgg13': Architecture('vgg13', vgg),
    'MobileNetV2': Architecture('mobilenet-v2', mobilenet_v2),
    'ShuffleV1': Architecture('shufflenet-v1', shufflenet_v1),
    'ShuffleV2': Architecture('shufflenet-v2', shufflenet_v2),
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', metavar='IN', help="mdistiller's file")
    parser.add_argument('out', metavar='OUT', help='file to write')
    parser.add_argument(
        '--arch',
        choices=ARCHITECTURES,
        help="mdistiller's name of the architecture; without it, the one that "
        'has the weights of the checkpoint',
    )
    return parser.parse_args()


def config_file(name: str) -> Path:
    """Path of the config of an architecture."""
    return MODEL_CONFIGS / f'{ARCHITECTURES[name].config}_cifar100.py'


def renamed(
    name: str, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weights of an architecture by their names in mmpretrain."""
    new = {ARCHITECTURES[name].rename(key): x for key, x in weights.items()}
    return {
        key if key.startswith('head.') else f'backbone.{key}': x
        for key, x in new.items()
    }


def build(name: str, num_classes: int) -> nn.Module:
    """Builds an architecture."""
    cfg = Config.fromfile(config_file(name))
    cfg.model.head.num_classes = num_classes
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg.model)


def misfits(name: str, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Names in mmpretrain of all weights that differ or are not there."""
    new = renamed(name, weights)
    bias = new.get('head.fc.bias')
    classes = 1 if bias is None else len(bias)
    own = build(name, classes).state_dict()
    return [
        key
        for key in own | new
        if key not in own or key not in new or own[key].shape != new[key].shape
    ]


def main() -> None:
    """Converts, checks and writes."""
    args = parse_args()
    loaded = _load_checkpoint(args.checkpoint, map_location='cpu')
    weights = loaded.get('model', loaded)
    wrong: dict[str, list[str]] = {}
    for name in [args.arch] if args.arch else ARCHITECTURES:
        wrong[name] = misfits(name, weights)
        if not wrong[name]:
            break
    name = min(wrong, key=lambda name: len(wrong[name]))
    if wrong[name]:
        sys.exit(
            f'{args.checkpoint} does not hold '
            + (name if args.arch else f'any of {", ".join(ARCHITECTURES)}')
            + f': of the weights of {name}, {len(wrong[name])} differ in shape'
            f' or are missing or unknown, such as {wrong[name][0]}.'
        )
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    state = renamed(name, weights)
    torch.save({'meta': {}, 'state_dict': state}, args.out)
    print(
        f'{name} of {len(state["head.fc.bias"])} classes, for '
        f'{config_file(name).name}: {len(state)} weights written to {args.out}'
    )


if __name__ == '__main__':
    main()
