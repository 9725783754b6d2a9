"""Equal networks have equal records, whatever is recorded."""

import copy
import functools

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from kdvit_mm.compat.patches.intact_records import tensors_of
from kdvit_mm.registry import MODELS
from tests import tiny


def classifier(backbone: dict, channels: int | None, **head) -> ConfigDict:
    model = tiny.resnet()
    model['backbone'] = backbone
    model.head.update(head)
    if channels is None:
        model.pop('neck')
    else:
        model.head.in_channels = channels
    return model


def vit() -> ConfigDict:
    arch = dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32
    )
    model = classifier(
        dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8),
        None,
    )
    model['head'] = dict(
        type='VisionTransformerClsHead',
        num_classes=tiny.CLASSES,
        in_channels=16,
    )
    return model


def swin() -> ConfigDict:
    arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 2])
    backbone = dict(
        type='SwinTransformer',
        arch=arch,
        img_size=32,
        patch_size=4,
        window_size=4,
        out_indices=(1,),
    )
    return classifier(backbone, 16)


def retina(neck: dict) -> ConfigDict:
    model = tiny.gfl()
    head = model.bbox_head
    head.update(
        type='RetinaHead',
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    )
    head.pop('loss_dfl')
    head.anchor_generator.pop('octave_base_scale')
    head.anchor_generator.pop('scales_per_octave')
    head.anchor_generator.scales = [2]
    model.type = 'RetinaNet'
    model.train_cfg.assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
    )
    model.neck = dict(in_channels=[8, 16, 32, 64], out_channels=16, **neck)
    return model


def faster_rcnn() -> ConfigDict:
    """Samples all proposals, so that chance has no say."""
    model = tiny.faster_rcnn()
    for part in (model.train_cfg.rpn, model.train_cfg.rcnn):
        part.sampler.update(num=100_000, pos_fraction=1.0)
    return model


def rtmdet() -> dict:
    act = dict(type='SiLU', inplace=True)
    norm = dict(type='BN')
    return dict(
        tiny.gfl(),
        type='RTMDet',
        backbone=dict(
            type='CSPNeXt',
            deepen_factor=0.167,
            widen_factor=0.125,
            norm_cfg=norm,
            act_cfg=act,
        ),
        neck=dict(
            type='CSPNeXtPAFPN',
            in_channels=[32, 64, 128],
            out_channels=16,
            num_csp_blocks=1,
            norm_cfg=norm,
            act_cfg=act,
        ),
        bbox_head=dict(
            type='RTMDetSepBNHead',
            num_classes=tiny.CLASSES,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            with_objectness=False,
            exp_on_reg=False,
            act_cfg=act,
            norm_cfg=norm,
            anchor_generator=dict(
                type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]
            ),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='GIoULoss'),
        ),
        train_cfg=dict(
            assigner=dict(type='DynamicSoftLabelAssigner', topk=5),
            allowed_border=-1,
            pos_weight=-1,
        ),
    )


def pspnet() -> ConfigDict:
    model = tiny.fcn()
    model.decode_head.update(type='PSPHead', pool_scales=(1, 2))
    model.decode_head.pop('num_convs')
    model.decode_head.pop('concat_input')
    return model


def segformer() -> ConfigDict:
    model = tiny.fcn()
    model.backbone = dict(
        type='MixVisionTransformer',
        embed_dims=8,
        num_stages=4,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
    )
    model.decode_head = dict(
        type='SegformerHead',
        in_channels=[8, 8, 16, 16],
        in_index=[0, 1, 2, 3],
        channels=8,
        dropout_ratio=0.1,
        num_classes=tiny.CLASSES + 1,
        norm_cfg=dict(type='BN', requires_grad=True),
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    return model


def classification_samples() -> list:
    return [DataSample().set_gt_label(i) for i in (1, 3)]


def segmentation_samples() -> list:
    from mmengine.structures import PixelData

    labels = torch.randint(tiny.CLASSES, (1, 64, 64))
    return [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(2)]


CLASSIFIERS = {
    'resnet': lambda: classifier(
        dict(type='ResNet', depth=18, base_channels=8, stem_channels=8), 64
    ),
    'resnet50': lambda: classifier(
        dict(type='ResNet', depth=50, base_channels=4, stem_channels=4), 128
    ),
    'resnext': lambda: classifier(
        dict(type='ResNeXt', depth=50, groups=2, width_per_group=4), 2048
    ),
    'mobilenetv2': lambda: classifier(
        dict(type='MobileNetV2', widen_factor=0.1), 1280
    ),
    'swin': swin,
    'vit': vit,
}
DETECTORS = {
    'gfl-fpn': tiny.gfl,
    'retinanet-pafpn': lambda: retina(dict(type='PAFPN', num_outs=5)),
    'retinanet-channel_mapper': lambda: retina(
        dict(type='ChannelMapper', kernel_size=1, num_outs=5)
    ),
    'faster_rcnn': faster_rcnn,
    'yolox': tiny.yolox,
    'rtmdet': rtmdet,
}
SEGMENTORS = {'pspnet': pspnet, 'segformer': segformer}
ZOO = CLASSIFIERS | DETECTORS | SEGMENTORS


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('kdvit_mm'):
        yield


def build(name: str, kind: str = 'LeanTeacherDistill', **options):
    """Equal networks and a batch, normalised, that both see."""
    algorithm = tiny.equal_networks(
        ZOO[name](),
        kind=kind,
        distiller=dict(type='mmrazor.ConfigurableDistiller'),
        **options,
    )
    if name in DETECTORS:
        # At 64 px the RPN of mmdet trips over a map of one anchor.
        size = 128 if name == 'faster_rcnn' else 64
        batch = tiny.detection_batch(size=size)
        data = algorithm.data_preprocessor(batch, True)
        return algorithm, data['inputs'], data['data_samples']
    if name in CLASSIFIERS:
        return algorithm, torch.randn(2, 3, 32, 32), classification_samples()
    return algorithm, torch.randn(2, 3, 64, 64), segmentation_samples()


class NoLoss(torch.nn.Module):
    """Asks for records and does nothing with them."""

    def forward(self, **records) -> torch.Tensor:
        return torch.zeros(())


def record(
    algorithm, truth: dict[str, list], kind: str = 'ModuleOutputs'
) -> None:
    """Gives the algorithm a distiller that wants every call's record."""
    recorders = {
        f'r{i}': dict(type=kind, source=source)
        for i, source in enumerate(truth)
    }
    distiller = MODELS.build(
        dict(
            type='mmrazor.ConfigurableDistiller',
            student_recorders=recorders,
            teacher_recorders=recorders,
        )
    )
    distiller.prepare_from_student(algorithm.student)
    distiller.prepare_from_teacher(algorithm.teacher)
    distiller.distill_losses['loss'] = NoLoss()
    distiller.loss_forward_mappings['loss'] = {
        f'{side}{i}': dict(
            recorder=f'r{i}', from_student=side, record_idx=len(calls) - 1
        )
        for i, calls in enumerate(truth.values())
        for side in (True, False)
    }
    algorithm.distiller = distiller


def watch(model, kind: str = 'ModuleOutputs') -> tuple[dict, list]:
    """Copies what every module gets or returns, as a plain hook sees it."""
    seen: dict[str, list] = {}
    handles = []
    for name, module in model.named_modules():
        if not name:
            continue

        def note(name, value):
            copies = [t.detach().clone() for t in tensors_of(value)]
            seen.setdefault(name, []).append(copies)

        if kind == 'ModuleOutputs':
            handle = module.register_forward_hook(
                lambda m, i, out, name=name: note(name, out)
            )
        else:
            handle = module.register_forward_pre_hook(
                lambda m, inputs, name=name: note(name, inputs)
            )
        handles.append(handle)
    return seen, handles


def what_is_called(algorithm, batch, kind: str = 'ModuleOutputs') -> dict:
    seen, handles = watch(algorithm.student, kind)
    with torch.no_grad():
        algorithm.student(*copy.deepcopy(batch), mode='loss')
    for handle in handles:
        handle.remove()
    return {name: calls for name, calls in seen.items() if any(calls)}


def check(algorithm, batch, truth: dict[str, list], close) -> None:
    """One step, then both sides' records are what the modules returned."""
    algorithm(*copy.deepcopy(batch), mode='loss')
    for side in ('student', 'teacher'):
        manager = getattr(algorithm.distiller, f'{side}_recorders')
        for recorder in manager.recorders.values():
            for call, expected in enumerate(truth[recorder.source]):
                found = tensors_of(recorder.get_record_data(call))
                for x, y in zip(found, expected, strict=True):
                    assert close(x.detach(), y), (side, recorder.source, call)


def nearly(x, y, tolerance=1e-4):
    return (x - y).abs().max() <= tolerance * (1 + y.abs().max())


ALGORITHMS = {
    'lean': dict(),
    'mmrazor': dict(kind='SingleTeacherDistill'),
    'inference_mode': dict(inference_mode=True),
    'channels_last': dict(channels_last=True),
    'bfloat16': dict(autocast_dtype='bfloat16'),
}
CLOSE = {
    'channels_last': nearly,
    'bfloat16': functools.partial(nearly, tolerance=0.2),
}


@pytest.mark.parametrize('options', ALGORITHMS)
@pytest.mark.parametrize('name', ZOO)
def test_every_module_at_once(name, options):
    rounds = options in ('bfloat16', 'channels_last')
    if rounds and name == 'faster_rcnn':
        pytest.skip('rounding changes the order of the proposals')
    algorithm, *batch = build(name, **ALGORITHMS[options])
    truth = what_is_called(algorithm, batch)
    assert len(truth) > 10
    record(algorithm, truth)
    # Without gradients torch has another kernel for attention.
    exact = torch.equal if name != 'segformer' else nearly
    close = CLOSE.get(options, exact)
    for _ in range(2):  # with copies, then without
        check(algorithm, batch, truth, close)


@pytest.mark.parametrize(
    'kind', ['SingleTeacherDistill', 'LeanTeacherDistill']
)
@pytest.mark.parametrize('name', ['resnet', 'mobilenetv2', 'gfl-fpn', 'vit'])
def test_inputs_are_recorded_before_the_call(name, kind):
    algorithm, *batch = build(name, kind)
    for module in algorithm.modules():
        if hasattr(module, 'inplace'):
            module.inplace = True
    truth = what_is_called(algorithm, batch, 'ModuleInputs')
    record(algorithm, truth, 'ModuleInputs')
    for _ in range(2):
        check(algorithm, batch, truth, torch.equal)


def test_one_module_at_a_time():
    """The teacher stops early."""
    algorithm, *batch = build('resnet')
    truth = what_is_called(algorithm, batch)
    for source, calls in truth.items():
        record(algorithm, {source: calls})
        for _ in range(2):
            check(algorithm, batch, {source: calls}, torch.equal)


@pytest.mark.parametrize(
    'source',
    [
        'backbone.conv1',
        'backbone.bn1',
        'backbone.maxpool',
        'backbone.layer1.0.bn2',
        'backbone.layer1.0',
        'backbone.layer2.0.downsample',
        'backbone.layer3',
        'backbone',
    ],
)
def test_folded_teacher_overwrites_nothing(source):
    """Its activations work in place."""
    algorithm, *batch = build('resnet', fold_batch_norm=True)
    truth = what_is_called(algorithm, batch)
    truth = {source: truth[source]}
    record(algorithm, truth)
    for _ in range(2):
        check(algorithm, batch, truth, nearly)
    norms = (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
    assert not isinstance(algorithm.teacher.backbone.layer4[1].bn2, norms)


def test_compiled_teacher_overwrites_nothing(monkeypatch):
    # Inductor would take a minute to build its kernels.
    compiler = functools.partial(torch.compile, backend='aot_eager')
    monkeypatch.setattr(torch, 'compile', compiler)
    algorithm, *batch = build('resnet', compile_teacher=True)
    truth = what_is_called(algorithm, batch)
    truth = {k: truth[k] for k in ('backbone.layer1.0.bn2', 'backbone.layer2')}
    record(algorithm, truth)
    for _ in range(2):
        check(algorithm, batch, truth, nearly)
