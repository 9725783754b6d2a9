"""Writes the configs of classification and those on real images.

A config joins a distiller of ``configs/_base_/distillers`` with a pair of
``configs/_base_/pairs``. What depends on both, such as channels, is worked out
from the networks below. The models in the metafiles, between
``# generated: models`` and ``# end generated``, are written, too.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import yaml
from generated_files import write_or_check
from mmengine.config import Config

from kdvit_mm.autodistill.connectors import resizing_geometry
from kdvit_mm.autodistill.text import Expression, format_config
from kdvit_mm.catalog import config_root

TOOL = 'tools/misc/generate_configs.py'
ROOT = config_root()
FOLDER = ROOT / 'distill' / 'mmpretrain'
DISTILLERS = ROOT / '_base_' / 'distillers'
MARKED = re.compile(
    r'(  # generated: models\n).*?(  # end generated)', re.DOTALL
)
METRIC = 'Top 1 Accuracy'


class Stage(NamedTuple):
    """A stage of a network, ``backbone.layer{i}``."""

    channels: int
    size: int
    #: What :class:`ModuleTuple` takes for the map before the last ReLU.
    before_relu: dict[str, Any]
    #: The batch norm before that; '' if there is none.
    norm: str = ''


class Network(NamedTuple):
    """A classifier."""

    title: str
    stages: tuple[Stage, ...]
    pooled: int
    #: Config or, if it has one for each data set, the folder.
    config: str = ''
    #: Its accuracy on CIFAR-100 or ImageNet, and whose figure that is.
    alone: float | None = None
    source: str = ''
    weights: str = ''


class Pair(NamedTuple):
    """Names of a teacher and a student, and what they are trained on."""

    teacher: str
    student: str
    schedule: str
    data: str

    def __str__(self) -> str:
        return '_'.join(self)


def resnet(
    blocks: tuple[int, ...], base: int, size: int, bottleneck: bool = False
) -> tuple[Stage, ...]:
    """Stages of a ResNet, whose blocks call their ReLU last on the sum."""
    calls = 3 if bottleneck else 2
    return tuple(
        Stage(
            base * 2**i,
            size // 2**i,
            {
                'source': f'backbone.layer{i + 1}.{number - 1}.relu',
                'inputs': True,
                'record_idx': calls - 1,
            },
            f'backbone.layer{i + 1}.{number - 1}.bn{calls}',
        )
        for i, number in enumerate(blocks)
    )


def stages(
    sources: list[str], *shapes: tuple[int, int], norms: bool = False
) -> tuple[Stage, ...]:
    """Stages whose maps before the ReLU are outputs of modules."""
    return tuple(
        Stage(*shape, {'source': source}, source if norms else '')
        for source, shape in zip(sources, shapes, strict=True)
    )


REPDISTILLER = (
    'https://github.com/HobbitLong/RepDistiller/blob/master/README.md'
)
MDISTILLER = 'https://github.com/megvii-research/mdistiller'
TEACHERS = f'{MDISTILLER}/releases/tag/checkpoints'
MMPRETRAIN = 'https://download.openmmlab.com/mmclassification/v0/resnet'
NETWORKS = {
    'resnet32x4': Network(
        'ResNet-32x4', resnet((5, 5, 5), 64, 32), 256,
        'configs/pretrain', 79.42, REPDISTILLER, TEACHERS,
    ),
    'wrn-40-2': Network(
        'WRN-40-2',
        stages(
            ['backbone.layer2.0.bn1', 'backbone.layer3.0.bn1',
             'backbone.layer4.0'],
            (32, 32), (64, 16), (128, 8), norms=True,
        ),
        128, 'configs/pretrain', 75.61, REPDISTILLER,
        TEACHERS,
    ),
    'resnet8x4': Network(
        'ResNet-8x4', resnet((1, 1, 1), 64, 32), 256,
        'configs/students/mmpretrain', 72.50, REPDISTILLER,
    ),
    'shufflenet-v1': Network(
        'ShuffleNetV1',
        stages(
            ['backbone.layer1.3.preact', 'backbone.layer2.7.preact',
             'backbone.layer3.3.preact'],
            (240, 16), (480, 8), (960, 4),
        ),
        960, 'configs/students/mmpretrain', 70.50,
        REPDISTILLER,
    ),
    'mobilenet-v2': Network(
        'MobileNetV2',
        stages(
            ['backbone.layer1', 'backbone.layer2', 'backbone.layer3',
             'backbone.layer4'],
            (12, 16), (16, 8), (48, 4), (160, 2),
        ),
        1280, 'configs/students/mmpretrain', 64.60,
        REPDISTILLER,
    ),
    'vgg8': Network(
        'VGG-8',
        stages(
            ['backbone.layer1.1.bn', 'backbone.layer2.1.bn',
             'backbone.layer3.1.bn', 'backbone.layer4.0.bn'],
            (128, 16), (256, 8), (512, 4), (512, 4), norms=True,
        ),
        512, 'configs/students/mmpretrain', 70.36, REPDISTILLER,
    ),
    'vgg13': Network(
        'VGG-13',
        stages(
            ['backbone.layer1.2.bn', 'backbone.layer2.2.bn',
             'backbone.layer3.2.bn', 'backbone.layer4.1.bn'],
            (128, 16), (256, 8), (512, 4), (512, 4), norms=True,
        ),
        512, 'configs/pretrain',
    ),
    'resnet18-w0.25': Network(
        'ResNet-18 w0.25', resnet((2, 2, 2, 2), 16, 32), 128
    ),
    'resnet18-w0.0625': Network(
        'ResNet-18 w0.0625', resnet((2, 2, 2, 2), 4, 32), 32
    ),
    'resnet18-w0.15625': Network(
        'ResNet-18 w0.15625', resnet((2, 2, 2, 2), 10, 56), 80
    ),
    'resnet34': Network(
        'ResNet-34', resnet((3, 4, 6, 3), 64, 56), 512,
        'mmpretrain::resnet/resnet34_8xb32_in1k.py', 73.62, '',
        f'{MMPRETRAIN}/resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    ),
    'resnet50': Network(
        'ResNet-50', resnet((3, 4, 6, 3), 256, 56, bottleneck=True), 2048,
        'mmpretrain::resnet/resnet50_8xb32_in1k.py', 76.55, '',
        f'{MMPRETRAIN}/resnet50_8xb32_in1k_20210831-ea4938fc.pth',
    ),
    'mobilenet-v1': Network(
        'MobileNetV1',
        stages(
            [f'backbone.layer{i + 1}.{last}.pointwise_conv.bn'
             for i, last in enumerate((1, 1, 5, 1))],
            (128, 56), (256, 28), (512, 14), (1024, 7), norms=True,
        ),
        1024, 'configs/students/mmpretrain',
    ),
    'resnet18': Network(
        'ResNet-18', resnet((2, 2, 2, 2), 64, 56), 512,
        'mmpretrain::resnet/resnet18_8xb32_in1k.py', 69.90,
    ),
}  # fmt: skip
DEMO = Pair('resnet18-w0.25', 'resnet18-w0.0625', '10e', 'digits-32')
R34_R18 = Pair('resnet34', 'resnet18', '8xb32', 'in1k')
CIFAR_PAIRS = [
    Pair(teacher, student, '240e', 'cifar100')
    for teacher, students in {
        'resnet32x4': ('resnet8x4', 'shufflenet-v1', 'mobilenet-v2'),
        'wrn-40-2': ('vgg8', 'shufflenet-v1', 'mobilenet-v2'),
    }.items()
    for student in students
]
CUB_PAIRS = [
    Pair(teacher, student, '240e', 'cub200')
    for teacher, student in (
        ('resnet32x4', 'mobilenet-v2'),
        ('resnet32x4', 'shufflenet-v1'),
        ('vgg13', 'mobilenet-v2'),
        ('vgg13', 'vgg8'),
    )
]
R50_MV1 = Pair('resnet50', 'mobilenet-v1', '8xb32', 'in1k')
IN1K_PAIRS = [R34_R18, R50_MV1]
CALTECH = Pair('resnet50', 'resnet18-w0.15625', '24e', 'caltech101-128')
CIFAR10 = Pair('resnet18-w0.25', 'resnet18-w0.0625', '24e', 'cifar10-32')
#: Data sets for whose papers the values of the bases are, and what runs them.
FULL_SCALE = {'cifar100': '1 GPU', 'cub200': '1 GPU'}
#: Images of the training sets.
IMAGES = {
    'caltech101-128': 5784,
    'cifar100': 50000,
    'digits-32': 6000,
    'in1k': 1281167,
}

#: Distillers of logits that need one view and no channels.
LOGITS = (
    'kd_logits',
    'dkd_logits',
    'nkd_logits',
    'wsld_logits',
    'normkd_logits',
    'dtkd_logits',
    'dist_logits',
    'lskd-kd_logits',
    'lskd-dkd_logits',
    'sdd-kd_regions-124',
    'sdd-lskd-kd_regions-124',
)
#: Pairs of classifiers on real images, with their methods by the first two
#: parts of the configs' names.
REAL = {
    CALTECH: (
        *LOGITS,
        'catkd_maps',
        'at_stages',
        'fitnets_layer2',
        'reviewkd_stages',
        'sp_map',
        'rkd_pooled',
        'crd_pooled',
    ),
    CIFAR10: LOGITS,
}
#: Distillers of segmentors on real images, by the same.
MAPS = {
    'kd_logits': 'kd_class_maps',
    'cwd_logits': 'cwd_logits',
    'dist_logits': 'dist_logits',
    'cirkd_features-logits': 'cirkd_features_logits_small',
}
#: Pairs of detectors and segmentors on real images, with their distillers.
REAL_MAPS = {
    'gfl_r50_gfl_r18-w0.125_24e_neudet-128': {
        'cwd_fpn': 'cwd_fpn_small',
        'defeat_fpn': 'defeat_fpn_small',
        'dist_head': 'dist_gfl_small',
        'fgd_fpn': 'fgd_fpn_small',
        'kd_head': 'kd_gfl_small',
        'ld_head': 'ld_gfl_small',
        'mgd_fpn': 'mgd_fpn_small',
        'pkd_fpn': 'pkd_fpn_small',
        'reviewkd_fpn': 'reviewkd_fpn_small',
        'cwd-dist_fpn-head': 'cwd-dist_gfl_small',
        'pkd-ld_fpn-head': 'pkd-ld_gfl_small',
    },
    'faster-rcnn_r50_faster-rcnn_r18-w0.125_24e_neudet-128': {
        'dkd_roi': 'dkd_roi_small',
        'reviewkd-dkd_fpn-roi': 'reviewkd-dkd_roi_small',
    },
    'yolox_nano_yolox_w0.125_24e_neudet-128': {
        'cwd_fpn': 'cwd_pafpn_small',
        'fgd_fpn': 'fgd_pafpn_small',
        'mgd_fpn': 'mgd_pafpn_small',
        'pkd_fpn': 'pkd_pafpn_small',
        'reviewkd_fpn': 'reviewkd_pafpn_small',
    },
    'pspnet_r50_fcn_r18-w0.125_4k_ccp-160': MAPS
    | {
        'at_features': 'at_features_small',
        'sp_features': 'sp_features_small',
    },
    'pspnet_r50_fcn_r18-w0.125_4k_camvid-160': MAPS
    | {'cirkd_features-logits': 'cirkd_features_logits_camvid'},
}

#: Values by dotted keys of a distiller.
Changes = dict[str, Any]


def sides(pair: Pair) -> tuple[Network, Network]:
    """The student and the teacher of a pair."""
    return NETWORKS[pair.student], NETWORKS[pair.teacher]


def parts(network: Network, first: int, number: int) -> list[dict]:
    """Stages as :class:`ModuleTuple` takes them, after their ReLU."""
    return [
        {'source': f'backbone.layer{i + 1}'}
        for i in range(len(network.stages))[first:][:number]
    ]


def nothing(pair: Pair) -> Changes:
    """For what is the same in all classifiers."""
    return {}


def regressor(layer: int) -> Callable[[Pair], Changes]:
    """A convolution from the student's stage to the teacher's."""

    def changes(pair: Pair) -> Changes:
        student, teacher = (side.stages[layer - 1] for side in sides(pair))
        shapes = (
            (1, stage.channels, stage.size, stage.size)
            for stage in (student, teacher)
        )
        base = 'connectors.regressor'
        return {
            f'{base}.in_channel': student.channels,
            f'{base}.out_channel': teacher.channels,
        } | {f'{base}.{k}': v for k, v in resizing_geometry(*shapes).items()}

    return changes


def attention(pair: Pair) -> Changes:
    """The first stages, as many as both have."""
    student, teacher = sides(pair)
    number = min(len(student.stages), len(teacher.stages))
    return {
        'student_recorders.stages.parts': parts(student, 0, number),
        'teacher_recorders.stages.parts': parts(teacher, 0, number),
    }


def overhaul(pair: Pair) -> Changes:
    """The last stages, as many as both have, each half of the next."""
    student, teacher = sides(pair)
    number = min(len(student.stages), len(teacher.stages))
    ours, theirs = student.stages[-number:], teacher.stages[-number:]
    weight = 1e-4 if pair.data == 'in1k' else 1e-3
    changes: Changes = {
        f'{side}_recorders.stages.parts': [s.before_relu for s in chosen]
        for side, chosen in (('student', ours), ('teacher', theirs))
    }
    for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        name = f'stage{i + 1}'
        changes |= {
            f'teacher_recorders.norm{i + 1}': {
                'type': 'kdvit_mm.Module',
                'source': their.norm,
            },
            f'connectors.{name}': {
                'type': 'ConvModuleConnector',
                'in_channel': our.channels,
                'out_channel': their.channels,
                'norm_cfg': {'type': 'BN'},
                'act_cfg': None,
            },
            f'distill_losses.loss_{name}': {
                'type': 'kdvit_mm.OFDLoss',
                'loss_weight': weight / 2 ** (number - i - 1),
            },
            f'loss_forward_mappings.loss_{name}': {
                'preds_S': {
                    'recorder': 'stages',
                    'from_student': True,
                    'data_idx': i,
                    'connector': name,
                },
                'preds_T': {
                    'recorder': 'stages',
                    'from_student': False,
                    'data_idx': i,
                },
                'norm_T': {'recorder': f'norm{i + 1}', 'from_student': False},
            },
        }
    return changes


def review(pair: Pair) -> Changes:
    """The last stages, as many as both have, and the pooled features."""
    student, teacher = sides(pair)
    number = min(len(student.stages), len(teacher.stages))
    ours, theirs = student.stages[-number:], teacher.stages[-number:]
    pooled = [{'source': 'neck.gap'}]
    in1k = pair.data == 'in1k'
    channels = [*(s.channels for s in ours), student.pooled]
    connector = 'connectors.review'
    changes: Changes = {
        'student_recorders.stages.parts': (
            [stage.before_relu for stage in ours]
            if in1k
            else parts(student, len(student.stages) - number, number)
        )
        + pooled,
        'teacher_recorders.stages.parts': [s.before_relu for s in theirs]
        + pooled,
        f'{connector}.in_channels': channels,
        f'{connector}.out_channels': [
            *(stage.channels for stage in theirs),
            teacher.pooled,
        ],
        f'{connector}.mid_channels': (
            256 if pair == R50_MV1 else min(512, channels[-1])
        ),
        'distill_losses.loss_reviewkd.loss_weight': {
            R34_R18: 1,
            R50_MV1: 8,
        }.get(pair, 5),
    }
    if ours[0].size != theirs[0].size:
        sizes = [*(stage.size for stage in theirs), 1]
        changes[f'{connector}.out_sizes'] = sizes
    return changes


def last_map(pair: Pair) -> Changes:
    """The last stage of both."""
    student, teacher = (len(side.stages) for side in sides(pair))
    return {
        'student_recorders.maps.source': f'backbone.layer{student}',
        'teacher_recorders.maps.source': f'backbone.layer{teacher}',
    }


def widths(loss: str) -> Callable[[Pair], Changes]:
    """Channels of the pooled features."""

    def changes(pair: Pair) -> Changes:
        student, teacher = sides(pair)
        return {
            f'distill_losses.{loss}.student_channels': student.pooled,
            f'distill_losses.{loss}.teacher_channels': teacher.pooled,
        }

    return changes


def contrast(pair: Pair) -> Changes:
    """Channels of the pooled features and the number of images."""
    changes = widths('loss_crd')(pair) | {
        'distill_losses.loss_crd.num_data': IMAGES[pair.data]
    }
    if IMAGES[pair.data] < 10000:
        changes['distill_losses.loss_crd.num_negatives'] = 1024
    return changes


def views(pair: Pair) -> Changes:
    """Channels of the pooled features and the teacher's head."""
    schedule = '2e' if pair == DEMO else '60e'
    return widths('loss_sskd')(pair) | {
        'distill_losses.loss_sskd.head_ckpt': (
            f'stage://sskd_head_{pair.teacher}_{schedule}_{pair.data}'
        )
    }


def attention_maps(pair: Pair) -> Changes:
    """The official code's values, or those of its nearest pair."""
    size, normalise, weight = {
        'resnet8x4': (2, False, 15),
        'mobilenet-v2': (2, True, 40),
        'vgg8': (4, True, 80),
        'shufflenet-v1': (
            4, True, 600 if pair.teacher == 'resnet32x4' else 80
        ),
    }.get(pair.student, (2, False, 15))  # fmt: skip
    return {
        'distill_losses.loss_catkd.size': size,
        'distill_losses.loss_catkd.normalise': normalise,
        'distill_losses.loss_catkd.loss_weight': weight,
    }


def decoupled(pair: Pair) -> Changes:
    """The values that mdistiller has for ImageNet."""
    if pair.data != 'in1k':
        return {}
    return {
        'distill_losses.loss_dkd.beta': 2 if pair == R50_MV1 else 0.5,
        'distill_losses.loss_dkd.tau': 1,
    }


def dynamic(pair: Pair) -> Changes:
    """The official values for the one pair that has its own."""
    if (pair.teacher, pair.student) != ('wrn-40-2', 'shufflenet-v1'):
        return {}
    return {
        'distill_losses.loss_dtkd.alpha': 2,
        'distill_losses.loss_dtkd.beta': 0.5,
    }


def strong_teacher(pair: Pair) -> Changes:
    """The official temperature for ImageNet."""
    return {'distill_losses.loss_dist.tau': 1 if pair.data == 'in1k' else 4}


def regions(key: str, scales: str) -> Callable[[Pair], Changes]:
    """The scales, and the beta or gamma of pairs that have their own."""

    def changes(pair: Pair) -> Changes:
        chosen: Changes = {
            'distill_losses.loss_sdd.scales': [*map(int, scales)]
        }
        if key and (
            pair.teacher == 'vgg13'
            or (pair.teacher, pair.student) == ('wrn-40-2', 'mobilenet-v2')
        ):
            chosen[f'distill_losses.loss_sdd.loss.{key}'] = 6
        return chosen

    return changes


class Method(NamedTuple):
    """A method at a place: a family of configs."""

    folder: str
    #: File of ``configs/_base_/distillers``.
    base: str
    changes: Callable[[Pair], Changes] = nothing
    #: First two parts of the names, if they are not those of the base.
    prefix: str = ''
    pairs: list[Pair] = CIFAR_PAIRS
    #: What the metafile calls the place, if not the name's second part.
    place: str = ''
    demo: bool = True
    #: Epochs of it and of the training without teacher that follows, if any.
    stages: tuple[int, ...] = ()
    #: Which checkpoint that starts from.
    keeps: str = 'last'

    @property
    def name(self) -> str:
        """First two parts of the names of its configs."""
        return self.prefix or self.base

    def config(self, pair: Pair, second: bool = False) -> str:
        """The config's name, or that of the training that follows."""
        name = self.name
        if second:
            name = f'{name.partition("_")[0]}_finetune'
        if self.stages and pair != DEMO:
            pair = pair._replace(schedule=f'{self.stages[second]}e')
        return f'{name}_{pair}'


def decoupled_scales() -> Iterator[Method]:
    """SDD around each loss with each M."""
    for loss, key in (
        ('kd', ''),
        ('dkd', 'beta'),
        ('nkd', 'gamma'),
        ('lskd-kd', ''),
        ('lskd-dkd', ''),
    ):
        for scales in ('1', '12', '124'):
            yield Method(
                'sdd_lskd' if 'lskd' in loss else 'sdd',
                f'sdd-{loss}_regions',
                regions(key, scales),
                f'sdd-{loss}_regions-{scales}',
                CIFAR_PAIRS + CUB_PAIRS,
                'regions',
                demo=scales == '124',
            )


BOTH = CIFAR_PAIRS + IN1K_PAIRS
METHODS = [
    Method('kd', 'kd_logits'),
    Method('kd', 'kd_logits_in1k', prefix='kd_logits', pairs=IN1K_PAIRS,
           demo=False),
    Method('dkd', 'dkd_logits', decoupled, pairs=BOTH),
    Method('nkd', 'nkd_logits', pairs=[*CIFAR_PAIRS, R34_R18]),
    Method('wsld', 'wsld_logits', pairs=BOTH),
    Method('normkd', 'normkd_logits'),
    Method('dtkd', 'dtkd_logits', dynamic),
    Method('mlld', 'mlld_logits', place='logits of two views'),
    Method('lskd', 'lskd-kd_logits', pairs=BOTH),
    Method('lskd', 'lskd-dkd_logits'),
    Method('lskd', 'lskd-mlld_logits', place='logits of two views'),
    *decoupled_scales(),
    Method('catkd', 'catkd_maps', attention_maps, place='class maps'),
    Method('annealing', 'annealing_logits', stages=(240, 100), keeps='best'),
    Method('dist', 'dist_logits_cls', strong_teacher, 'dist_logits', BOTH),
    Method('fitnets', 'fitnets_layer2', regressor(2),
           pairs=[*CIFAR_PAIRS, R34_R18]),
    Method('at', 'at_stages', attention, pairs=BOTH),
    # Their maps alone have equal channels.
    Method('fsp', 'fsp_stages', pairs=CIFAR_PAIRS[:1],
           stages=(30, 240)),
    Method('ofd', 'ofd_stages', overhaul, pairs=BOTH),
    Method('dspp', 'dspp_layer3', regressor(3)),
    Method('reviewkd', 'reviewkd_stages', review, pairs=BOTH),
    Method('sp', 'sp_map', last_map, place='last map'),
    Method('rkd', 'rkd_pooled', place='pooled features'),
    Method('crd', 'crd_pooled', contrast, pairs=BOTH,
           place='pooled features'),
    Method('sskd', 'sskd_views', views, place='rotated views'),
]  # fmt: skip


@cache
def read_base(name: str) -> Config:
    """A file of ``configs/_base_/distillers``."""
    return Config.fromfile(DISTILLERS / f'{name}.py')


def assignments(base: Config, changes: Changes) -> Changes:
    """What changes what a distiller has otherwise."""
    assigned: Changes = {}
    for key, value in changes.items():
        node: Any = base.distiller.to_dict()
        for name in key.split('.'):
            node = node.get(name)
        assigned |= differences(f'distiller.{key}', node, value)
    return assigned


def differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values that make a value another one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in new.items():
            yield from differences(f'{path}.{key}', old.get(key), value)
    elif old != new:
        yield path, new


def config_text(method: Method, pair: Pair) -> str:
    """The config of a method on a pair."""
    name = method.base
    if pair == DEMO and (DISTILLERS / f'{name}_small.py').is_file():
        name += '_small'
    base = read_base(name)
    above = '..' if pair == DEMO or pair in REAL else '../../..'
    content: dict[str, Any] = {
        '_base_': [
            f'{above}/_base_/pairs/{pair}.py',
            f'{above}/_base_/distillers/{name}.py',
        ]
    }
    changes = assignments(base, method.changes(pair))
    if changes:
        content |= {'distiller': Expression('_base_.distiller'), **changes}
    model: dict[str, Any] = {}
    architecture: dict[str, Any] = {}
    if base.get('ce_weight', 1) != 1 and pair.data in FULL_SCALE:
        weight = Expression('_base_.ce_weight')
        architecture['head'] = {'loss': {'loss_weight': weight}}
    if 'preprocessor' in base:
        architecture['data_preprocessor'] = {
            'type': Expression('_base_.preprocessor')
        }
    if architecture:
        model['architecture'] = architecture
    if 'calculate_student_loss' in base:
        key = 'calculate_student_loss'
        model[key] = Expression(f'_base_.{key}')
    model['distiller'] = Expression(
        'distiller' if changes else '_base_.distiller'
    )
    content['model'] = model
    if 'TwoView' in base.get('preprocessor', ''):
        pipeline = Expression('_base_.two_view_pipeline')
        content['train_dataloader'] = {'dataset': {'pipeline': pipeline}}
    if method.stages:
        content |= stage_keys(method, pair)
    # Of a demo only if they were made for its few epochs.
    if 'schedules' in base and (
        pair.data in FULL_SCALE or name.endswith('_small')
    ):
        content['custom_hooks'] = [
            Expression('*_base_.custom_hooks'),
            {
                'type': 'kdvit_mm.DistillScheduleHook',
                'schedules': Expression('_base_.schedules'),
            },
        ]
    return text_of(content)


def stage_keys(method: Method, pair: Pair) -> dict[str, Any]:
    """What makes a config the stage before a training without teacher."""
    epochs, _ = method.stages
    keys: dict[str, Any] = {}
    if method.keeps == 'best':
        keys['default_hooks'] = {'checkpoint': {'save_best': 'accuracy/top1'}}
    if pair != DEMO and f'{epochs}e' != pair.schedule:
        keys['train_cfg'] = {'max_epochs': epochs}
    return keys


def finetune_text(method: Method, pair: Pair) -> str:
    """The training without teacher that follows a stage of a method."""
    student = f'{pair.student}_{pair.schedule}_{pair.data}.py'
    above = './' if pair == DEMO else '../../../students/mmpretrain/'
    content: dict[str, Any] = {
        '_base_': f'{above}{student}',
        'load_from': f'stage://{method.config(pair)}',
    }
    _, epochs = method.stages
    if pair != DEMO and f'{epochs}e' != pair.schedule:
        content['train_cfg'] = {'max_epochs': epochs}
        content['param_scheduler'] = {
            'milestones': [epochs // 2, 3 * epochs // 4]
        }
    return text_of(content)


def text_of(content: dict[str, Any]) -> str:
    """A config of these values by dotted keys, one below the other."""
    lines = (format_config({k: v}, {}) for k, v in content.items())
    return ''.join((f'# Written by {TOOL}\n', *lines))


def configs() -> Iterator[tuple[Path, str]]:
    """All configs and their text."""
    for method in METHODS:
        small = [DEMO] if method.demo else []
        small += [
            pair
            for pair, names in REAL.items()
            if method.demo and method.name in names
        ]
        for pair in [*method.pairs, *small]:
            folder = FOLDER / method.folder
            if pair in small:
                folder = ROOT / ('demo' if pair == DEMO else 'real')
            name = method.config(pair)
            yield folder / f'{name}.py', config_text(method, pair)
            if method.stages:
                name = method.config(pair, second=True)
                yield folder / f'{name}.py', finetune_text(method, pair)
    for names, distillers in REAL_MAPS.items():
        for prefix, distiller in distillers.items():
            file = ROOT / 'real' / f'{prefix}_{names}.py'
            yield file, maps_text(names, distiller)


def maps_text(pair: str, distiller: str) -> str:
    """The config of a distiller on a pair of detectors or segmentors."""
    return text_of(
        {
            '_base_': [
                f'../_base_/pairs/{pair}.py',
                f'../_base_/distillers/{distiller}.py',
            ],
            'model': {'distiller': Expression('_base_.distiller')},
        }
    )


def entries(folder: str) -> str:
    """The metafile's entries of all configs of a method."""
    title = read_metafile(folder)['Collections'][0]['Name']
    found = []
    for method in METHODS:
        if method.folder == folder:
            for pair in method.pairs:
                found += metafile_entries(method, pair, title)
    text = yaml.safe_dump(found, sort_keys=False, width=1000)
    return indent(text, '  ')


def metafile_entries(method: Method, pair: Pair, title: str) -> list[dict]:
    """The entry of a config and that of the training after it, if any."""
    name = method.config(pair)
    sides = {
        side: network_facts(network, pair)
        for side, network in (
            ('Teacher', pair.teacher),
            ('Student', pair.student),
        )
    }
    gpus = FULL_SCALE.get(pair.data, '8 GPUs')
    facts: dict[str, Any] = {
        'Location': method.place or method.name.partition('_')[2],
        'Training Resources': f'{gpus}, not run',
    }
    found = [(name, facts | sides)]
    figure = figures().get(name)
    if figure:
        found[0][1]['Published'] = {
            'Method': title,
            'Location': facts['Location'],
            'Teacher': {k: sides['Teacher'][k] for k in ('Model', 'Weights')},
            'Student': {k: sides['Student'][k] for k in ('Model', 'Metrics')},
            'Schedule': pair.schedule,
            'Metrics': {METRIC: figure['value']},
            'Source': figure['source'],
            'Entry': figure['entry'],
        }
    if method.stages:
        found.append((method.config(pair, second=True), facts))
    return [
        {
            'Name': name,
            'In Collection': title,
            'Config': f'configs/distill/mmpretrain/{method.folder}/{name}.py',
            'Metadata': metadata,
        }
        for name, metadata in found
    ]


def network_facts(name: str, pair: Pair) -> dict[str, Any]:
    """What a metafile says of a teacher or a student."""
    network = NETWORKS[name]
    config = network.config
    if '::' not in config:
        config += f'/{name}_{pair.schedule}_{pair.data}.py'
    facts: dict[str, Any] = {
        'Config': config,
        'Model': network.title,
        'Schedule': pair.schedule,
    }
    # Of CUB-200 nothing is published of these very networks.
    if pair.data == 'cub200':
        return facts
    if network.weights:
        facts['Weights'] = network.weights
    if network.alone:
        facts['Metrics'] = {METRIC: network.alone}
    if network.source:
        facts['Source'] = network.source
    return facts


@cache
def figures() -> dict[str, dict[str, Any]]:
    """Published figures by config, as published.yml has them."""
    given = yaml.safe_load((FOLDER / 'published.yml').read_text())
    return {
        config: {'value': value, 'source': table['source'], 'entry': entry}
        for table in given
        for config, (value, entry) in table['figures'].items()
    }


def read_metafile(folder: str) -> dict[str, Any]:
    """The metafile of a method."""
    return yaml.safe_load((FOLDER / folder / 'metafile.yml').read_text())


def metafiles() -> Iterator[tuple[Path, str]]:
    """The metafiles with their entries."""
    for folder in dict.fromkeys(method.folder for method in METHODS):
        file = FOLDER / folder / 'metafile.yml'
        text = entries(folder).replace('\\', r'\\')
        yield file, MARKED.sub(rf'\g<1>{text}\g<2>', file.read_text())


def documents() -> dict[Path, str]:
    """What each generated file should hold."""
    return dict([*configs(), *metafiles()])


if __name__ == '__main__':
    write_or_check(__doc__, documents())
