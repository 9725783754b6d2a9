"""Losses on the RoI heads of real two-stage detectors."""

import copy

import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from kdvit_mm.catalog import config_root, methods
from kdvit_mm.models.losses import DISTLoss, DKDLoss
from kdvit_mm.models.losses.wrappers.shared_roi import (
    SharedRoILoss,
    teacher_logits,
)
from kdvit_mm.models.recorders import ModuleRecorder
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.examples import Example, maps

DISTILLERS = config_root() / '_base_' / 'distillers'
ON_ROIS = [
    name
    for method in methods('Detection').values()
    for name in method.distillers
    if 'SharedRoILoss' in (DISTILLERS / f'{name}.py').read_text()
]
ALGORITHMS = ('LeanTeacherDistill', 'SingleTeacherDistill')


def of_proposals():
    from mmdet.registry import MODELS as DETECTION

    config = tiny.faster_rcnn().roi_head
    # mmcv's own operator takes real tensors only.
    config.bbox_roi_extractor.roi_layer.use_torchvision = True
    return dict(
        preds_S=maps(6, 11),
        rois=torch.rand(6, 5),
        maps_T=[maps(2, 16, size, size) for size in (16, 8, 4, 2)],
        roi_head_T=DETECTION.build(
            dict(config, train_cfg=None, test_cfg=None)
        ),
        labels=torch.zeros(6, dtype=torch.long),
    )


EXAMPLES = [
    Example(dict(type='SharedRoILoss', loss=loss), of_proposals)
    for loss in (dict(type='kdvit_mm.DKDLoss'), dict(type='kdvit_mm.DISTLoss'))
]


def read_distiller(name='dkd_roi', **changes):
    """A distiller of configs/_base_ with other options of its losses."""
    config = Config.fromfile(DISTILLERS / f'{name}.py').distiller
    for loss in config.distill_losses.values():
        loss.update(changes)
    return config


def build(kind='LeanTeacherDistill', fpn=16, **changes):
    config = dict(
        architecture=tiny.faster_rcnn(8, fpn),
        teacher=tiny.faster_rcnn(16, fpn),
        distiller=read_distiller(),
    )
    torch.manual_seed(0)
    model = MODELS.build(tiny.algorithm(kind, **config | changes))
    model.init_weights()
    # The classifiers start near 0: all their divergences would be, too.
    for side in (model.student, model.teacher):
        nn.init.normal_(side.roi_head.bbox_head.fc_cls.weight, 0, 0.3)
    model.train()
    return model


def make_batch(empty=()):
    batch = tiny.detection_batch()
    for index in empty:
        batch['data_samples'][index].gt_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
        )
    return batch


def step(model, batch=None, seed=7):
    """The losses, and the preprocessed batch."""
    data = model.data_preprocessor(copy.deepcopy(batch or make_batch()), True)
    torch.manual_seed(seed)
    return model(**data, mode='loss'), data


def logits_by_hand(detector, images, rois):
    """RoI features and classifier, layer by layer, by box and level."""
    with torch.no_grad():
        maps = detector.neck(detector.backbone(images))
        head = detector.roi_head
        rows = []
        for roi in rois:
            width, height = roi[3] - roi[1], roi[4] - roi[2]
            scale = (width * height).sqrt() / 56 + 1e-6
            layers = head.bbox_roi_extractor.roi_layers
            level = int(scale.log2().floor().clamp(0, len(layers) - 1))
            x = layers[level](maps[level], roi[None]).flatten()
            for fc in head.bbox_head.shared_fcs:
                x = (fc.weight @ x + fc.bias).relu()
            fc = head.bbox_head.fc_cls
            rows.append(fc.weight @ x + fc.bias)
    return torch.stack(rows)


@pytest.mark.parametrize('empty', [(), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize('kind', ALGORITHMS)
def test_value_is_that_of_the_students_proposals(kind, empty):
    model = build(kind)
    losses, data = step(model, make_batch(empty))
    student = model.distiller.student_recorders.recorders
    ((logits, _),) = student['head'].data_buffer
    ((_, rois),) = student['rois'].data_buffer
    labels = student['targets'].data_buffer[0][0]
    assert len(rois) == len(logits) == len(labels) == 32
    # One image without objects has background alone.
    assert all((labels[rois[:, 0] == i] == tiny.CLASSES).all() for i in empty)
    model.teacher.eval()
    expected = logits_by_hand(model.teacher, data['inputs'], rois)
    recorder = model.distiller.get_record('fpn', False)
    torch.testing.assert_close(
        teacher_logits(model.teacher.roi_head, recorder, rois), expected
    )
    torch.testing.assert_close(
        losses['distill.loss_dkd'],
        DKDLoss(beta=0.25)(logits, expected, labels),
    )
    assert losses['distill.loss_dkd'] > 0.1


def test_dist_takes_no_labels():
    model = build(fpn=256, distiller=read_distiller('dist_roi'))
    losses, data = step(model)
    distiller = model.distiller
    logits, rois = (
        distiller.get_record(name, True, data_idx=index)
        for name, index in (('head', 0), ('rois', 1))
    )
    expected = logits_by_hand(model.teacher, data['inputs'], rois)
    torch.testing.assert_close(
        losses['distill.loss_dist'], DISTLoss()(logits, expected)
    )
    assert losses['distill.loss_dist'] > 0.1


@pytest.mark.parametrize('kind', ALGORITHMS)
@pytest.mark.parametrize('name', ON_ROIS)
def test_trains_the_student_alone(kind, name):
    model = build(kind, fpn=256, distiller=read_distiller(name))
    before = copy.deepcopy(model.teacher.state_dict())
    modes = [module.training for module in model.teacher.modules()]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses, _ = step(model)
    total = sum(v for k, v in losses.items() if 'distill.' in k)
    total.backward()
    optimizer.step()
    assert all(p.grad is None for p in model.teacher.parameters())
    for key, value in model.teacher.state_dict().items():
        if 'num_batches' not in key:
            assert torch.equal(value, before[key]), key
    assert modes == [m.training for m in model.teacher.modules()]
    for part in (
        model.student.backbone.conv1,
        model.student.neck.fpn_convs[0].conv,
        model.student.roi_head.bbox_head.fc_cls,
    ):
        assert part.weight.grad.isfinite().all()
        assert part.weight.grad.abs().sum() > 0
    assert step(model)[0].keys() == losses.keys()


@pytest.mark.parametrize('name', ON_ROIS)
def test_weight_0_trains_as_if_alone(name):
    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        for seed in (7, 8):
            losses, _ = step(model, make_batch((1,)), seed)
            loss, _ = model.parse_losses(losses)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    model = build(fpn=256, distiller=read_distiller(name, loss_weight=0))
    alone = copy.deepcopy(model.student)
    train(model)
    train(alone)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[key]), key


def normed_teacher():
    """A RoI head with batch norms behind the extractor, as some have."""
    config = tiny.faster_rcnn(16, fpn=64)
    config.roi_head.shared_head = dict(
        type='ResLayer', depth=18, stage=1, norm_cfg=dict(type='BN')
    )
    config.roi_head.bbox_head.update(
        type='Shared4Conv1FCBBoxHead',
        in_channels=128,
        roi_feat_size=4,
        conv_out_channels=8,
        norm_cfg=dict(type='BN'),
    )
    return config


@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        (dict(fold_batch_norm=True), 1e-5),
        (dict(channels_last=True), 1e-5),
        (dict(inference_mode=True), 0),
        (dict(fold_batch_norm=True, channels_last=True), 1e-5),
        (dict(autocast_dtype='bfloat16'), 0.05),
    ],
    ids=lambda value: '+'.join(value) if isinstance(value, dict) else '',
)
def test_lean_options_keep_the_value(options, tolerance):
    plain = build(teacher=normed_teacher())
    lean = build(teacher=normed_teacher(), **options)
    for module in plain.teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    lean.teacher.load_state_dict(plain.teacher.state_dict())
    expected, found = (
        step(model)[0]['distill.loss_dkd'] for model in (plain, lean)
    )
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    kinds = [type(m) for m in lean.teacher.roi_head.modules()]
    assert (nn.BatchNorm2d in kinds) != ('fold_batch_norm' in options)


def test_teacher_stops_after_its_neck():
    model = build()
    calls = []
    for module in (model.teacher.rpn_head, model.teacher.roi_head.bbox_head):
        module.register_forward_pre_hook(
            lambda module, _: calls.append(module)
        )
    step(model)
    assert calls == [model.teacher.roi_head.bbox_head]


def test_teacher_with_other_levels():
    """Its RoI head reads three maps, the student's four."""
    teacher = tiny.faster_rcnn(16)
    teacher.roi_head.bbox_roi_extractor.featmap_strides = [4, 8, 16]
    model = build(teacher=teacher)
    _, data = step(model)
    rois = model.distiller.get_record('rois', True, data_idx=1)
    maps = model.distiller.get_record('fpn', False)
    torch.testing.assert_close(
        teacher_logits(model.teacher.roi_head, maps, rois),
        logits_by_hand(model.teacher, data['inputs'], rois),
    )


def test_dropout_is_off_and_the_mode_restored():
    """Under SingleTeacherDistill the teacher is in train mode."""
    head = build('SingleTeacherDistill').teacher.roi_head
    head.bbox_head.shared_fcs[0] = nn.Sequential(
        head.bbox_head.shared_fcs[0], nn.Dropout(0.5)
    )
    head.bbox_head.relu.eval()
    head.bbox_head.shared_fcs[0].train()
    maps = [torch.randn(1, 16, s, s) for s in (32, 16, 8, 4, 2)]
    rois = bbox2roi([torch.tensor([[4.0, 4, 100, 90], [0, 0, 20, 30]])])
    first, second = (teacher_logits(head, maps, rois) for _ in range(2))
    assert torch.equal(first, second)
    assert head.training and head.bbox_head.shared_fcs[0][1].training
    assert not head.bbox_head.relu.training


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps(dtype):
    """Maps of a teacher under autocast; the head stays in float32."""
    model = build()
    maps = [(torch.randn(2, 16, s, s)).to(dtype) for s in (32, 16, 8, 4, 2)]
    rois = bbox2roi([torch.tensor([[4.0, 4, 100, 90]])] * 2)
    head = model.teacher.roi_head
    expected = teacher_logits(head, [x.float() for x in maps], rois)
    with torch.autocast('cpu', torch.bfloat16):
        logits = teacher_logits(head, maps, rois)
        loss = SharedRoILoss(dict(type='kdvit_mm.DKDLoss'))(
            torch.randn(2, 11).to(dtype).requires_grad_(),
            rois,
            maps,
            head,
            torch.tensor([0, 10]),
        )
    assert torch.equal(logits, expected)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_no_proposals():
    """As where an early RPN gives none and no image has an object."""
    logits = torch.zeros(0, 11, requires_grad=True)
    maps = [torch.randn(1, 16, s, s) for s in (32, 16, 8, 4, 2)]
    loss = SharedRoILoss(dict(type='kdvit_mm.DKDLoss'))(
        logits,
        torch.zeros(0, 5),
        maps,
        build().teacher.roi_head,
        torch.zeros(0).long(),
    )
    loss.backward()
    assert loss == 0


def test_module_recorder():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    recorder = ModuleRecorder('0')
    recorder.initialize(model)
    for _ in range(2):
        with recorder:
            pass
        assert recorder.get_record_data() is model[0]
        assert len(recorder.data_buffer) == 1
    with pytest.raises(
        AssertionError, match=r'"2" is not in the model.*"source"'
    ):
        ModuleRecorder('2').initialize(model)


@pytest.mark.parametrize('kind', ALGORITHMS)
@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_one_stage_detectors_are_refused(kind, side):
    source = dict(
        architecture='roi_head.bbox_roi_extractor', teacher='roi_head'
    )[side]
    with pytest.raises(
        AssertionError,
        match=rf'"{source}" is not in the model, GFL. Closest: .*bbox_head.*'
        'Set the key "source"',
    ):
        build(kind, **{side: tiny.gfl(8)})


def test_cascades_and_single_maps_are_refused():
    model = build()
    maps = [torch.randn(1, 16, s, s) for s in (32, 16, 8, 4, 2)]
    rois = torch.tensor([[0.0, 4, 4, 50, 60]])
    head = model.teacher.roi_head
    for wrong in (maps[0], maps[:3]):
        with pytest.raises(ValueError, match=r'takes 4 maps.*no data_idx'):
            teacher_logits(head, wrong, rois)
    with pytest.raises(ValueError, match=r"a RPNHead.*source='roi_head'"):
        teacher_logits(model.teacher.rpn_head, maps, rois)
    head.bbox_roi_extractor = nn.ModuleList([head.bbox_roi_extractor])
    with pytest.raises(ValueError, match='stages of a cascade'):
        teacher_logits(head, maps, rois)
