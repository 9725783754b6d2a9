"""No forward mixes devices, which a machine without a GPU can tell too.

Gradients and their use by an optimiser are left to ``test_gpu.py``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData
from mmengine.utils import digit_version
from torch import nn

import kdvit_mm  # noqa: F401
from kdvit_mm.engine.hooks import LevelSelectionHook
from kdvit_mm.models.losses.feature.freekd import FrequencyPrompt
from kdvit_mm.models.recorders.fpn_level_selection import Pyramid
from kdvit_mm.models.selectors.benefits import image_losses, level_benefits
from kdvit_mm.registry import MODELS
from tests.fake_gpu import GPU, fake_gpu, maps
from tests.loss_checks import classification_batch
from tests.tiny import algorithm, detection_batch, faster_rcnn, gfl, resnet

pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='fake tensors of this torch know no absent GPU',
)
CASES: dict[str, Callable[[], Any]] = {}
SIZES = (8, 4, 2)
COSTS = (0.6, 0.3, 0.1)
SLOW = ('LeanTeacherDistill', 'FreeKDPromptLearning', 'ResNeXt18')


def case(*names: str) -> Callable:
    def add(function: Callable) -> Callable:
        CASES.update(dict.fromkeys(names, function))
        return function

    return add


def build(kind: str, **options: Any) -> nn.Module:
    return MODELS.build(dict(type=f'kdvit_mm.{kind}', **options)).to(GPU)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return maps(*shape), maps(*shape, requires_grad=False)


def pyramid() -> Pyramid:
    levels = Pyramid(maps(2, 4, size, size) for size in SIZES)
    levels.used = [maps(2, 4, size, size) for size in SIZES]
    return levels


def samples(size: int = 64) -> list:
    """As a data preprocessor leaves them: boxes on the GPU."""
    from mmdet.structures import DetDataSample

    found = []
    for index in range(2):
        shape = (size, size)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.rand(3, 4, device=GPU),
            labels=torch.zeros(3, dtype=torch.long, device=GPU),
        )
        found.append(sample)
    return found


@case('CWDLoss')
def cwd() -> None:
    for norm, divergence in (
        ('channel', 'kl'),
        ('spatial', 'kl'),
        ('channel', 'mse'),
        ('channel_mean', 'mse'),
    ):
        options = dict(norm_type=norm, divergence=divergence, resize=True)
        build('CWDLoss', tau=2, **options)(maps(2, 4, 6, 5), maps(2, 4, 7, 8))


@case('ATLoss')
def at() -> None:
    for released in (True, False):
        loss = build('ATLoss', p=3, released=released)
        loss(maps(2, 4, 8, 8), maps(2, 3, 4, 4))


@case('DSPPLoss')
def dspp() -> None:
    levels = [pair(2, 4, size, size) for size in (5, 8)]
    build('DSPPLoss')(*zip(*levels, strict=True))


@case('FSPLoss')
def fsp() -> None:
    levels = [pair(2, 4, size, size) for size in (8, 4)]
    build('FSPLoss')(*zip(*levels, strict=True))


@case('OFDLoss')
def ofd() -> None:
    norm = nn.BatchNorm2d(4).to(GPU)
    build('OFDLoss')(maps(2, 4, 6, 5), maps(2, 4, 8, 8), norm)


@case('RKDLoss')
def rkd() -> None:
    for options in (dict(l2_norm=True), dict(squared=True)):
        build('RKDLoss', **options)(maps(4, 5), maps(4, 3, 2, 2))


@case('SPLoss')
def sp() -> None:
    build('SPLoss')(maps(4, 5), maps(4, 3, 2, 2))


@case('FeatureL2Loss')
def feature_l2() -> None:
    build('FeatureL2Loss')(*pair(2, 4, 6, 5))


@case('HCLLoss')
def hcl() -> None:
    build('HCLLoss')(*pair(2, 4, 6, 5))


@case('PKDLoss')
def pkd() -> None:
    for resize in (True, False):
        loss = build('PKDLoss', resize_stu=resize)
        loss(maps(2, 4, 6, 5), maps(2, 4, 7, 8))
        loss(*pair(1, 4, 1, 1))


@case('DISTLoss')
def dist() -> None:
    for shape in (3, 5), (2, 2, 6, 5):
        for sigmoid in (True, False):
            build('DISTLoss', use_sigmoid=sigmoid)(*pair(*shape))


@case('DKDLoss')
def dkd() -> None:
    from mmpretrain.structures import DataSample

    loss = build('DKDLoss', tau=2)
    for device in (GPU, 'cpu'):
        labels = torch.zeros(3, dtype=torch.long, device=device)
        loss(*pair(3, 5), gt_labels=labels)
        found = [DataSample().set_gt_label(label) for label in labels]
        loss(*pair(3, 5), data_samples=found)


@case('CRDLoss')
def crd() -> None:
    from mmpretrain.structures import DataSample

    found = [
        DataSample(metainfo=dict(sample_idx=index)).set_gt_label(
            torch.zeros(1, dtype=torch.long, device=GPU)
        )
        for index in range(3)
    ]
    loss = build('CRDLoss', student_channels=5, teacher_channels=5, num_data=9)
    loss(*pair(3, 5), found)


@case('CIRKDMiniBatchLoss', 'CIRKDMemoryLoss')
def cirkd() -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    build('CIRKDMiniBatchLoss')(maps(2, 3, 6, 5), maps(2, 4, 6, 5))
    labels = torch.zeros(1, 12, 10, dtype=torch.long, device=GPU)
    found = [SegDataSample(gt_sem_seg=PixelData(data=labels))] * 2
    for released in (True, False):
        loss = build(
            'CIRKDMemoryLoss',
            student_channels=3,
            teacher_channels=4,
            num_classes=7,
            pixel_memory=600,
            region_memory=200,
            released_positions=released,
        )
        loss(maps(2, 3, 6, 5), maps(2, 4, 6, 5), found)


@case('SSKDLoss', 'SSKDHeadLearning', 'RotatedViewsDataPreprocessor')
def sskd() -> None:
    config = resnet()
    config.data_preprocessor.type = 'kdvit_mm.RotatedViewsDataPreprocessor'
    learning = build('SSKDHeadLearning', architecture=config, channels=32)
    data = learning.data_preprocessor(classification_batch(), True)
    learning(**data, mode='loss')
    feats_s, feats_t = pair(16, 32)
    loss = build(
        'SSKDLoss', student_channels=32, teacher_channels=32, head_ckpt=None
    )
    loss(*pair(16, 5), data['data_samples'], feats_s, feats_t)


@case('KDLoss')
def kd() -> None:
    for shape in (3, 5), (2, 5, 6, 4):
        build('KDLoss', tau=2)(*pair(*shape))


@case('WSLDLoss', 'NKDLoss')
def labelled() -> None:
    for kind in ('WSLDLoss', 'NKDLoss'):
        for device in (GPU, 'cpu'):
            labels = torch.zeros(3, dtype=torch.long, device=device)
            build(kind, tau=2)(*pair(3, 5), gt_labels=labels)


@case('NormKDLoss')
def normkd() -> None:
    labels = torch.zeros(3, dtype=torch.long)
    for kind in ('KDLoss', 'DKDLoss'):
        build('NormKDLoss', loss=dict(type=kind))(*pair(3, 5), labels)


@case('DTKDLoss', 'AnnealingKDLoss')
def unlabelled() -> None:
    for kind in ('DTKDLoss', 'AnnealingKDLoss'):
        build(kind, tau=2)(*pair(3, 5))


@case('MLLDLoss', 'LogitStandardise', 'TwoViewDataPreprocessor')
def mlld() -> None:
    from mmpretrain.structures import DataSample

    images = [torch.zeros(2, 3, 8, 8, dtype=torch.uint8) for _ in range(2)]
    labels = [DataSample().set_gt_label(label) for label in range(2)]
    preprocessor = build('TwoViewDataPreprocessor', mean=[1.0], std=[2.0])
    batch = preprocessor(dict(inputs=images, data_samples=labels), True)
    assert batch['inputs'].device == GPU
    views = batch['data_samples']
    build('MLLDLoss')(*pair(4, 5), views)
    for kind, given in (
        ('KDLoss', None),
        ('DKDLoss', torch.zeros(4, dtype=torch.long)),
        ('MLLDLoss', views),
    ):
        loss = build('LogitStandardise', loss=dict(type=kind))
        loss(*pair(4, 5), given)


@case('CATKDLoss', 'ScaleDecouple')
def class_maps() -> None:
    student, teacher = (nn.Linear(n, 5).to(GPU) for n in (3, 4))
    maps_of = maps(2, 3, 6, 5), maps(2, 4, 3, 3)
    for options in ({}, dict(binarise=True, num_maps=2)):
        build('CATKDLoss', **options)(*maps_of, student, teacher)
    labels = torch.zeros(2, dtype=torch.long)
    for released in (False, True):
        loss = build(
            'ScaleDecouple',
            loss=dict(type='LogitStandardise', loss=dict(type='DKDLoss')),
            released_rows=released,
        )
        loss(*maps_of, student, teacher, labels)


@case('DeFeatLoss')
def defeat() -> None:
    loss = build(
        'DeFeatLoss', fg_weight=3, bg_weight=12, stride=8, level=0,
        num_levels=2,
    )  # fmt: skip
    loss(*pair(2, 4, 8, 8), data_samples=samples())


@case('DeFeatRoILoss')
def defeat_roi() -> None:
    labels = torch.zeros(6, dtype=torch.long, device=GPU)
    for background in ('last_logit', 'largest_label'):
        loss = build(
            'DeFeatRoILoss', fg_weight=2, bg_weight=2, background=background
        )
        loss(*pair(6, 4), labels)


@case('FGDLoss')
def fgd() -> None:
    weights = dict.fromkeys(
        ('alpha_fgd', 'beta_fgd', 'gamma_fgd', 'lambda_fgd'), 1e-3
    )
    for covers in ('img_shape', 'batch_input_shape'):
        loss = build('FGDLoss', channels=4, map_covers=covers, **weights)
        loss(*pair(2, 4, 8, 8), data_samples=samples())


@case('FreeKDLoss')
def freekd() -> None:
    loss = build('FreeKDLoss', channels=[4, 4])
    pairs = pair(2, 4, 9, 8), pair(2, 4, 4, 4)
    loss(*zip(*pairs, strict=True))
    FrequencyPrompt(4, 2).to(GPU)(maps(2, 4, 9, 8))


@case('LDLoss')
def ld() -> None:
    head = gfl().bbox_head
    anchors = dict(head.anchor_generator, strides=[8, 16])
    loss = build(
        'LDLoss',
        anchor_generator=anchors,
        assigner=dict(type='ATSSAssigner', topk=9),
    )
    heads = [
        [[maps(2, channels, n, n) for n in (8, 4)] for channels in (3, 68)]
        for _ in range(2)
    ]
    loss(*heads, samples())


@case('MGDLoss', 'MGDGenerator')
def mgd() -> None:
    for on_channel in (True, False):
        generator = build(
            'MGDGenerator',
            student_channels=3,
            teacher_channels=4,
            lambda_mgd=0.5,
            mask_on_channel=on_channel,
        )
        generated = generator.forward_train(maps(2, 3, 6, 5))
        build('MGDLoss', alpha_mgd=1e-5)(generated, maps(2, 4, 6, 5))


@case('DeFeatAdapter')
def defeat_adapter() -> None:
    adapter = build('DeFeatAdapter', in_channel=3, out_channel=4)
    adapter.forward_train(maps(2, 3, 6, 5).half())


@case('ReviewKDConnector')
def reviewkd() -> None:
    for sizes in (None, [8, (5, 4)]):
        connector = build(
            'ReviewKDConnector',
            in_channels=[3, 4],
            out_channels=[4, 4],
            mid_channels=4,
            out_sizes=sizes,
        )
        connector((maps(2, 3, 8, 8), maps(2, 4, 4, 4)))
    connector((maps(1, 3, 2, 2), maps(1, 4, 1, 1)))


@case('SharedRoILoss')
def shared_roi() -> None:
    from mmdet.registry import MODELS as DETECTION

    config = faster_rcnn().roi_head
    # mmcv's own operator takes real tensors only.
    config.bbox_roi_extractor.roi_layer.use_torchvision = True
    head = DETECTION.build(dict(config, train_cfg=None, test_cfg=None))
    head.to(GPU)
    neck = [maps(2, 16, size, size) for size in (16, 8, 4, 2)]
    rois = torch.rand(6, 5, device=GPU)
    labels = torch.zeros(6, dtype=torch.long, device=GPU)
    for inner in (
        dict(type='kdvit_mm.DKDLoss'),
        dict(type='kdvit_mm.DISTLoss'),
        dict(type='kdvit_mm.DeFeatRoILoss', fg_weight=2, bg_weight=2),
    ):
        loss = build('SharedRoILoss', loss=inner)
        loss(maps(6, 11), rois, neck, head, labels)


SELECTORS = dict(
    AllLevels=[{}],
    FixedLevels=[dict(levels=[1])],
    RandomLevels=[dict(rate=0.3), dict(cost=0.7)],
    GreedyLevels=[{}, dict(remembers=True)],
    RegressedLevels=[{}, dict(remembers=True)],
    GatedLevels=[{}],
    PPOLevels=[
        dict(remembers=True),
        dict(action='joint', shuffle_rewards=True),
        dict(algorithm='reinforce'),
        dict(frozen=True),
    ],
)


def choose(kind: str, options: dict) -> None:
    """Chooses, is told what came of it, learns and chooses again."""
    selector = build(kind, num_levels=3, lambda_cost=0.1, **options)
    costs = torch.tensor(COSTS)
    images = torch.arange(2)
    for mode in (True, False):
        selector.train(mode)
        selection = selector(pyramid(), pyramid(), costs, images)
        assert {x.device for x in vars(selection).values()} == {GPU}
        if mode:
            quality = torch.rand(2, 3, device=GPU)
            selector.observe(quality, torch.ones(2, device=GPU) > 0)
            selector.observe_losses(torch.rand(3, device=GPU))
            selector.load_extra_state(selector.extra_state())
            if not options.get('frozen'):
                selector.learn()


def choose_levels(kind: str) -> Callable[[], None]:
    def run() -> None:
        for options in SELECTORS[kind]:
            choose(kind, options)

    return run


for kind in SELECTORS:
    case(kind)(choose_levels(kind))


@case('GradNorm')
def grad_norm() -> None:
    weights = build('GradNorm', num_levels=3)
    weights.step(maps(3).detach(), maps(3).detach())


def student_of_influence() -> nn.Module:
    convs = (nn.Conv2d(4, 4, 3, padding=1) for _ in SIZES)
    return nn.ModuleList(convs).to(GPU)


@case('AlignedQuality', 'InfluenceQuality', 'MeasuredQuality')
def quality() -> None:
    for kind in ('AlignedQuality', 'MeasuredQuality', 'InfluenceQuality'):
        options, student = {}, student_of_influence()
        if kind == 'InfluenceQuality':
            options = dict(convs=['0', '1', '2'])
        measure = build(kind, num_levels=3, **options)
        if kind == 'InfluenceQuality':
            measure.attach(student)
            measure.see_held_out(maps(1).sum())
        found = pyramid()
        if kind == 'InfluenceQuality':
            for conv, level in zip(student, found, strict=True):
                conv(level)
        applied = torch.ones(2, 3, device=GPU) > 0
        if kind == 'MeasuredQuality':
            measure.see_losses(torch.rand(2, device=GPU))
            measure.see_losses(torch.rand(2, device=GPU))
        measure.watch(found, applied)
        # What autograd does in a backward.
        for level, size in enumerate(SIZES):
            for part in ('task', 'distill'):
                gradient = torch.rand(2, 4, size, size, device=GPU)
                measure._measure(level, True, part, gradient)
        assert measure.take(applied).device == GPU
        assert measure.distill_norms().device == GPU


@case('LevelWise')
def level_wise() -> None:
    connector = dict(
        type='ConvModuleConnector', in_channel=4, out_channel=4, act_cfg=None
    )
    loss = build(
        'LevelWise',
        loss=dict(type='CWDLoss'),
        num_levels=3,
        connector=connector,
    )
    assert loss(pyramid(), pyramid(), samples()).device == GPU


@case('SelectedLevelsLoss')
def selected_levels() -> None:
    connector = dict(
        type='MGDGenerator',
        student_channels=4,
        teacher_channels=4,
        lambda_mgd=0.5,
    )
    for kind, more in (
        ('AllLevels', {}),
        ('RandomLevels', dict(grad_norm=dict(), connector=connector)),
        ('GatedLevels', dict(quality=dict(type='MeasuredQuality'))),
    ):
        loss = build(
            'SelectedLevelsLoss',
            selector=dict(type=kind),
            loss=dict(type='CWDLoss'),
            num_levels=3,
            **more,
        )
        for applies in (True, False):
            loss.applies_selection = applies
            assert loss(pyramid(), pyramid(), samples()).device == GPU
            for value in vars(loss.last).values():
                if isinstance(value, torch.Tensor):
                    assert value.device == GPU
        assert loss._nothing(0).device == GPU


def train_step(model: nn.Module, size: int = 128) -> dict:
    model.train()
    data = model.data_preprocessor(detection_batch(size=size), True)
    losses = model(**data, mode='loss')
    model.parse_losses(losses)
    return losses


@case('LeanTeacherDistill')
def lean_teacher() -> None:
    for options in (
        {},
        dict(
            fold_batch_norm=True,
            channels_last=True,
            autocast_dtype='bfloat16',
        ),
    ):
        train_step(MODELS.build(algorithm(**options)).to(GPU))


@case('FreeKDPromptLearning')
def prompt_learning() -> None:
    train_step(
        build('FreeKDPromptLearning', architecture=gfl(), channels=[16] * 5)
    )


@case('ResNeXt18')
def resnext18() -> None:
    build('ResNeXt18')(maps(1, 3, 64, 64))


def test_level_selection_and_its_probes(monkeypatch) -> None:
    without_autograd(monkeypatch)
    record = dict(pyramid=dict(type='FPNLevelSelection', source='neck'))
    sides = dict(preds_S=True, preds_T=False)
    selection = dict(
        type='ConfigurableDistiller',
        student_recorders=record
        | dict(inputs=dict(type='ModuleInputs', source='')),
        teacher_recorders=record,
        distill_losses=dict(
            loss_levels=dict(
                type='SelectedLevelsLoss',
                selector=dict(type='PPOLevels', remembers=True),
                loss=dict(type='CWDLoss'),
                num_levels=5,
            )
        ),
        loss_forward_mappings=dict(
            loss_levels={
                key: dict(recorder='pyramid', from_student=student)
                for key, student in sides.items()
            }
            | dict(
                data_samples=dict(
                    recorder='inputs', from_student=True, data_idx=1
                )
            )
        ),
    )
    with fake_gpu():
        model = MODELS.build(algorithm(distiller=selection)).to(GPU)
        train_step(model)
        batch = detection_batch(size=128)
        hook = LevelSelectionHook(probe_interval=1)
        hook.algorithm = model
        hook.loss = model.distiller.distill_losses.loss_levels
        hook._facts(hook.loss.last)
        assert level_benefits(model, batch).quality.device == GPU
        assert image_losses(model, batch).device == GPU
        hook._regrets(batch)


def without_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no backward on a GPU that is not there."""

    def grad(
        value: Any, inputs: Sequence[torch.Tensor], **options: Any
    ) -> list:
        return [torch.zeros_like(x) for x in inputs]

    monkeypatch.setattr(torch.Tensor, 'backward', lambda loss: None)
    monkeypatch.setattr(torch.autograd, 'grad', grad)


def test_every_class_has_a_case():
    ours = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith('kdvit_mm.')
    }
    assert ours == CASES.keys()


@pytest.mark.parametrize('name', CASES)
def test_one_device(name, monkeypatch):
    without_autograd(monkeypatch)
    refused = []
    for answer in (True, False):
        if not answer and name in SLOW:
            break
        with fake_gpu(answer):
            try:
                CASES[name]()
            except ValueError as error:
                # Bad input, by a condition that real values do not fulfil.
                refused.append(error)
    assert len(refused) < (2 if name not in SLOW else 1), refused


@pytest.mark.parametrize(
    'mix',
    [
        lambda: torch.ones(3) * maps(3),
        lambda: torch.stack([torch.ones(2), maps(2)]),
        lambda: torch.rand(3, device=GPU, generator=torch.Generator()),
        lambda: maps(2, 3)[:, torch.ones(3, device=GPU) > 0] + torch.ones(3),
        lambda: nn.Conv2d(3, 4, 1).to(GPU)(torch.ones(1, 3, 2, 2)),
    ],
)
def test_a_mix_is_found(mix):
    with fake_gpu(), pytest.raises(RuntimeError, match='cpu'):
        mix()


def test_scalars_of_the_host_may_join():
    with fake_gpu():
        assert (torch.tensor(2.0) * maps(3)).device == GPU
