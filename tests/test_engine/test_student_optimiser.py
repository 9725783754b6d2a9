"""Optimiser groups of a distillation are those of the student alone."""

import copy
from importlib import import_module
from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import nn

from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.registry import MODELS
from tests import tiny

CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64]),
    out_indices=[0, 1, 2, 3],
    gap_before_final_norm=False,
)
BEIT = dict(
    type='mmseg.BEiT',
    img_size=(32, 32),
    patch_size=16,
    embed_dims=16,
    num_layers=4,
    num_heads=2,
    out_indices=(0, 1, 2, 3),
    init_cfg=None,
)


def detector(**backbone: Any) -> nn.Module:
    cfg = tiny.gfl()
    if backbone:
        cfg.backbone = ConfigDict(backbone)
        cfg.neck.in_channels = [8, 16, 32, 64]
    return MODELS.build(cfg)


def segmentor(**backbone: Any) -> nn.Module:
    cfg = tiny.fcn()
    cfg.backbone = ConfigDict(backbone)
    cfg.decode_head.in_channels = 64 if 'ConvNeXt' in backbone['type'] else 16
    return MODELS.build(cfg)


def classifier(**backbone: Any) -> nn.Module:
    cfg = tiny.resnet()
    cfg.backbone = ConfigDict(backbone)
    cfg.neck = None
    cfg.head.in_channels = 16
    return MODELS.build(cfg)


def vit(kind: str = 'VisionTransformer') -> nn.Module:
    arch = dict(
        embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32
    )
    return classifier(type=kind, arch=arch, img_size=32, patch_size=16)


def swin() -> nn.Module:
    cfg = tiny.resnet()
    cfg.backbone = ConfigDict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
        img_size=64,
        window_size=2,
    )
    cfg.head.in_channels = 64
    return MODELS.build(cfg)


def convnext_classifier() -> nn.Module:
    cfg = tiny.resnet()
    cfg.backbone = ConfigDict(CONVNEXT, out_indices=(3,))
    cfg.head.in_channels = 64
    return MODELS.build(cfg)


def simsiam_like() -> nn.Module:
    """A student with a part named as one of the algorithm's."""
    model = detector()
    model.teacher = nn.Linear(2, 2)
    return model


BASE = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
LAYERS = dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6)
VIT_KEYS = {'.cls_token': dict(decay_mult=0.0), 'head': dict(decay_mult=0.5)}
# Constructor, student, paramwise_cfg.
CASES = [
    ('DefaultOptimWrapperConstructor', detector, None),
    (
        'DefaultOptimWrapperConstructor',
        detector,
        dict(
            bias_lr_mult=2.0,
            bias_decay_mult=0.0,
            norm_decay_mult=0.0,
            custom_keys={
                'backbone': dict(lr_mult=0.1),
                'backbone.layer1': dict(lr_mult=0.01, decay_mult=0.5),
            },
        ),
    ),
    (
        'DefaultOptimWrapperConstructor',
        lambda: detector(**CONVNEXT),
        dict(
            flat_decay_mult=0.0, dwconv_decay_mult=0.3, bypass_duplicate=True
        ),
    ),
    (
        'DefaultOptimWrapperConstructor',
        swin,
        dict(
            custom_keys={
                'relative_position_bias_table': dict(decay_mult=0.0),
                'norm': dict(decay_mult=0.0, fix_lr=True),
            }
        ),
    ),
    # An own part of the student's.
    (
        'DefaultOptimWrapperConstructor',
        simsiam_like,
        dict(custom_keys={'teacher.weight': dict(lr_mult=0.2)}),
    ),
    (
        'mmseg.ForceDefaultOptimWrapperConstructor',
        lambda: segmentor(**BEIT),
        dict(
            norm_decay_mult=0.0,
            force_default_settings=True,
            custom_keys={'pos_embed': dict(lr_mult=0.1)},
        ),
    ),
    (
        'mmdet.LearningRateDecayOptimizerConstructor',
        lambda: detector(**CONVNEXT),
        LAYERS,
    ),
    (
        'mmdet.LearningRateDecayOptimizerConstructor',
        lambda: detector(**CONVNEXT),
        dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6),
    ),
    (
        'mmseg.LearningRateDecayOptimizerConstructor',
        lambda: segmentor(**CONVNEXT),
        LAYERS,
    ),
    (
        'mmseg.LearningRateDecayOptimizerConstructor',
        lambda: segmentor(**BEIT),
        dict(decay_rate=0.65, decay_type='layer_wise_vit', num_layers=4),
    ),
    (
        'mmseg.LayerDecayOptimizerConstructor',
        lambda: segmentor(**BEIT),
        dict(layer_decay_rate=0.9, num_layers=4),
    ),
    *(
        (
            'mmpretrain.LearningRateDecayOptimWrapperConstructor',
            make,
            dict(
                layer_decay_rate=0.75,
                norm_decay_mult=0.0,
                flat_decay_mult=0.0,
                custom_keys=VIT_KEYS,
            ),
        )
        for make in (vit, lambda: vit('BEiTViT'), swin, convnext_classifier)
    ),
]


def distil(
    student: nn.Module,
    kind: type = LeanTeacherDistill,
    channels: int = 0,
    **keys: Any,
) -> SingleTeacherDistill:
    """Distils; ``channels`` are those of a connector with parameters."""
    distiller = ConfigDict(type='mmrazor.ConfigurableDistiller')
    if channels:
        distiller.connectors = dict(
            adapt=dict(
                type='mmrazor.ConvModuleConnector',
                in_channel=channels,
                out_channel=4,
                norm_cfg=dict(type='BN'),
            )
        )
    return kind(
        architecture=copy.deepcopy(student),
        teacher=copy.deepcopy(student),
        distiller=distiller,
        **keys,
    )


def config(constructor: str, paramwise: dict | None, **keys: Any) -> dict:
    return ConfigDict(
        type='OptimWrapper',
        constructor=constructor,
        paramwise_cfg=copy.deepcopy(paramwise),
        optimizer=dict(BASE),
        **keys,
    )


def groups(wrapper: OptimWrapper, model: nn.Module) -> list[dict]:
    """The groups with the parameters' names instead of the parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        {
            **{k: v for k, v in group.items() if k != 'params'},
            'names': [names.get(id(p)) for p in group['params']],
        }
        for group in wrapper.optimizer.param_groups
    ]


@pytest.fixture(autouse=True)
def no_scope():
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize('kind', [LeanTeacherDistill, SingleTeacherDistill])
@pytest.mark.parametrize(('constructor', 'make', 'paramwise'), CASES)
def test_groups_are_those_of_the_student_alone(
    constructor, make, paramwise, kind
):
    student = make()
    student.backbone.requires_grad_(True)
    cfg = config(constructor, paramwise)
    alone = groups(build_optim_wrapper(student, copy.deepcopy(cfg)), student)
    assert len({(g['lr'], g['weight_decay']) for g in alone}) > (
        paramwise is not None
    )
    model = distil(student, kind)
    found = groups(
        build_optim_wrapper(model, copy.deepcopy(cfg)), model.student
    )
    assert found == alone
    model = distil(student, kind, channels=8)
    *found, rest = groups(build_optim_wrapper(model, cfg), model.student)
    assert found == alone
    assert (rest['lr'], rest['weight_decay']) == (1e-3, 0.05)
    held = {
        id(p)
        for group in build_optim_wrapper(model, cfg).optimizer.param_groups
        for p in group['params']
    }
    assert held == {
        id(p)
        for part in (model.student, model.distiller)
        for p in part.parameters()
    }


def test_every_constructor_is_compared():
    for package in 'mmdet', 'mmseg', 'mmpretrain':
        import_module(f'{package}.engine')
    registered = {
        f'{child.scope}.{name}'
        for child in OPTIM_WRAPPER_CONSTRUCTORS.children.values()
        if child.scope in ('mmdet', 'mmseg', 'mmpretrain')
        for name in child.module_dict
    } | {
        name
        for name, cls in OPTIM_WRAPPER_CONSTRUCTORS.module_dict.items()
        if cls.__module__.startswith('mmengine')
    }
    assert {name for name, *_ in CASES} == registered


def test_frozen_parameters_outside_of_the_student_stay_out():
    model = distil(detector(), channels=8)
    frozen = next(iter(model.distiller.parameters())).requires_grad_(False)
    model.student.backbone.conv1.requires_grad_(False)
    wrapper = build_optim_wrapper(model, config(*CASES[0][::2]))
    first, rest = wrapper.optimizer.param_groups
    assert all(p is not frozen for p in rest['params'])
    # As alone: without paramwise_cfg frozen parameters are handed over.
    assert len(first['params']) == len(list(model.student.parameters()))


def test_trainable_teacher_follows_the_student():
    model = distil(detector(), SingleTeacherDistill, teacher_trainable=True)
    wrapper = build_optim_wrapper(model, config(*CASES[1][::2]))
    held = {id(p) for p in wrapper.optimizer.param_groups[-1]['params']}
    wanted = [p for p in model.teacher.parameters() if p.requires_grad]
    assert wanted and held == {id(p) for p in wanted}


@pytest.mark.parametrize(
    ('key', 'advice'),
    [
        ('architecture.backbone', 'write "backbone"'),
        ('architecture', r'set the values in optim_wrapper\.optimizer'),
        ('distiller.connectors', 'base learning rate'),
        ('teacher.neck', 'base learning rate'),
    ],
)
def test_keys_of_the_algorithms_parts_are_refused(key, advice):
    cfg = config(CASES[0][0], dict(custom_keys={key: dict(lr_mult=0.1)}))
    with pytest.raises(ValueError, match=rf'custom_keys: "{key}".*{advice}'):
        build_optim_wrapper(distil(detector()), cfg)


def test_several_optimisers_are_refused():
    part = dict(type='OptimWrapper', optimizer=dict(BASE))
    cfg = ConfigDict(
        constructor='mmrazor.SeparateOptimWrapperConstructor',
        architecture=part,
        distiller=part,
    )
    with pytest.raises(ValueError, match=r'\(architecture, distiller\)'):
        build_optim_wrapper(distil(detector()), cfg)


def test_state_is_taken_back_and_learning_rates_are_scaled(tmp_path):
    """What auto_scale_lr, schedulers and resume do to all groups."""
    from mmengine.optim import StepLR
    from mmengine.runner import Runner

    student = detector(**CONVNEXT)
    cfg = config(*[CASES[6][i] for i in (0, 2)])
    model = distil(student, channels=8)
    wrapper, again = (build_optim_wrapper(model, cfg) for _ in range(2))
    alone = build_optim_wrapper(student, copy.deepcopy(cfg))
    rates = []
    for part in wrapper, alone:
        runner = Runner(
            model=nn.Linear(1, 1),
            work_dir=str(tmp_path),
            train_dataloader=dict(batch_size=4, dataset=[]),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=part,
            experiment_name=f'scale{len(rates)}',
        )
        runner.scale_lr(part, dict(enable=True, base_batch_size=16))
        StepLR(part, step_size=1, gamma=0.1).step()
        rates.append([g['lr'] for g in part.optimizer.param_groups])
    assert rates[0] == [*rates[1], pytest.approx(1e-3 * 0.25 * 0.1)]
    sum(p.sum() for p in model.parameters()).backward()
    wrapper.step()
    again.load_state_dict(wrapper.state_dict())
    states = [w.optimizer.state_dict()['state'] for w in (wrapper, again)]
    assert states[0].keys() == states[1].keys() != set()
    assert [g['lr'] for g in again.optimizer.param_groups] == rates[0]
