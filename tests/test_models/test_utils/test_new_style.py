"""New-style configs, in which types are classes."""

from pathlib import Path

import pytest
import torch
from mmdet.models import GFL
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmrazor.models.task_modules import ModuleOutputsRecorder

from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.models.utils.student_config import plain_text, student_config
from kdvit_mm.registry import MODELS
from tests import tiny

STUDENT = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import PackDetInputs, Resize
from mmdet.models import FPN, GFL, DetDataPreprocessor, GFLHead, ResNet
from mmdet.models.losses import (DistributionFocalLoss, GIoULoss,
                                 QualityFocalLoss)
from mmdet.models.task_modules import AnchorGenerator, ATSSAssigner

model = dict(
    type=GFL,
    data_preprocessor=dict(
        type=DetDataPreprocessor, mean=[127.0] * 3, std=[60.0] * 3,
        pad_size_divisor=32),
    backbone=dict(
        type=ResNet, depth=18, base_channels=8, num_stages=4,
        out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN')),
    neck=dict(
        type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, start_level=1,
        add_extra_convs='on_output', num_outs=5),
    bbox_head=dict(
        type=GFLHead, num_classes=10, in_channels=16, feat_channels=16,
        stacked_convs=1, norm_cfg=dict(type='GN', num_groups=4),
        anchor_generator=dict(
            type=AnchorGenerator, ratios=[1.0], octave_base_scale=2,
            scales_per_octave=1, strides=[8, 16, 32, 64, 128]),
        loss_cls=dict(type=QualityFocalLoss, use_sigmoid=True),
        loss_dfl=dict(type=DistributionFocalLoss, loss_weight=0.25),
        loss_bbox=dict(type=GIoULoss, loss_weight=2.0)),
    train_cfg=dict(assigner=dict(type=ATSSAssigner, topk=9), allowed_border=-1,
                   pos_weight=-1),
    test_cfg=dict(
        nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=20))
test_dataloader = dict(batch_size=1, dataset=dict(type=CocoDataset, pipeline=[
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(64, 64)), dict(type=PackDetInputs)]))
default_scope = None
"""
DISTILLATION = """
from mmengine.config import read_base

with read_base():
    from .student import *

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.losses import ChannelWiseDivergence
from mmrazor.models.task_modules import ModuleOutputsRecorder

from kdvit_mm.engine.hooks import DistillationLossDetachHook
from kdvit_mm.models.algorithms import LeanTeacherDistill

neck = dict(type=ModuleOutputsRecorder, source='neck')
model = dict(
    type=LeanTeacherDistill, architecture=model, teacher=model,
    distiller=dict(
        type=ConfigurableDistiller,
        student_recorders=dict(rec=neck), teacher_recorders=dict(rec=neck),
        distill_losses=dict(loss_0=dict(type=ChannelWiseDivergence)),
        loss_forward_mappings=dict(loss_0=dict(
            preds_S=dict(recorder='rec', from_student=True, data_idx=0),
            preds_T=dict(recorder='rec', from_student=False, data_idx=0)))))
custom_hooks = [dict(type=DistillationLossDetachHook, detach_epoch=1)]
"""


class OwnGFL(GFL):
    pass


@pytest.mark.parametrize(
    ('kind', 'scope', 'named'),
    [
        ('GFL', 'mmdet', 'GFL'),
        ('mmdet.GFL', 'mmdet', 'GFL'),
        ('mmdet.models.GFL', 'mmdet', 'mmdet.models.GFL'),
        ('mmdet.models.detectors.gfl.GFL', 'mmdet', None),
        (GFL, 'mmdet', GFL),
        (OwnGFL, 'mmdet', OwnGFL),
        (ImageClassifier, 'mmpretrain', ImageClassifier),
        ('EncoderDecoder', 'mmseg', 'EncoderDecoder'),
        ('kdvit_mm.X', 'kdvit_mm', 'X'),
        (torch.nn.Linear, None, torch.nn.Linear),
        ('torch.nn.Linear', None, 'torch.nn.Linear'),
    ],
)
def test_scope_of_names_paths_and_classes(kind, scope, named):
    model = in_own_scope(dict(type=kind))
    assert model.get('_scope_') == scope
    assert model['type'] == (named or kind)
    assert in_own_scope(dict(type=kind, _scope_='a'))['_scope_'] == 'a'


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp('new_style')
    (folder / 'student.py').write_text(STUDENT)
    file = folder / 'distillation.py'
    file.write_text(DISTILLATION)
    return Config.fromfile(file)


def build(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    # As in a config without default_scope.
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def test_class_types_build_what_names_build(config):
    """Written with classes, dumped and read, and written with names."""
    plain = tiny.gfl(8)
    named = tiny.algorithm(
        architecture=plain, teacher=plain, distiller=tiny.distiller(levels=1)
    )
    models = [
        build(config),
        build(Config.fromstring(config.pretty_text, '.py')),
        build(Config(dict(model=named))),
    ]
    data = models[0].data_preprocessor(tiny.detection_batch(size=64), True)
    losses = [model(**data, mode='loss') for model in models]
    for other in losses[1:]:
        assert other.keys() == losses[0].keys()
        for name, loss in losses[0].items():
            mine, theirs = torch.as_tensor(loss), other[name]
            assert mine.sum() == torch.as_tensor(theirs).sum(), name
    recorders = models[0].distiller.student_recorders.recorders
    assert type(recorders['rec']) is ModuleOutputsRecorder


@pytest.mark.parametrize('dumped', [False, True])
def test_plain_config_of_the_student(config, dumped):
    if dumped:
        config = Config.fromstring(config.pretty_text, '.py')
    plain = student_config(config)
    assert in_own_scope(dict(type=plain.model.type))['_scope_'] == 'mmdet'
    assert 'distiller' in config.model and plain.custom_hooks == []
    load, *_ = plain.test_dataloader.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    text = plain_text(plain)
    assert "type='mmdet.Resize'" in text
    assert 'kdvit_mm' not in text and "type='mmdet.GFLHead'" in text
    model = build(Config.fromstring(text, '.py'))
    assert type(model) is GFL
    assert model.state_dict().keys() == build(plain).state_dict().keys()


def test_deliveries_by_class(config):
    from mmrazor.models.task_modules import (
        DistillDeliveryManager,
        MethodOutputsDelivery,
    )

    for kind in (
        'MethodOutputs',
        MethodOutputsDelivery,
        f'{MethodOutputsDelivery.__module__}.MethodOutputsDelivery',
    ):
        path = f'{Path.__module__}.Path.exists'
        manager = DistillDeliveryManager(
            dict(a=dict(type=kind, max_keep_data=1, method_path=path))
        )
        assert type(manager.deliveries['a']) is MethodOutputsDelivery
