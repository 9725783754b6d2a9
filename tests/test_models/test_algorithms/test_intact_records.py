"""Records that are overwritten late, by readers, or in deliveries."""

import copy

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.logging import MMLogger
from mmengine.model import (
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from mmpretrain.structures import DataSample
from torch import nn

from kdvit_mm.compat.patches.intact_records import OverwrittenRecord
from kdvit_mm.models.utils import last_record
from kdvit_mm.registry import MODELS
from tests import tiny


def record(from_student, **keys):
    return dict(recorder='rec', from_student=from_student, **keys)


def classifiers(kind='LeanTeacherDistill', readers=1, connector=None, **keys):
    """A pair of equal networks with L2 on a norm before an activation."""
    recorders = dict(rec=dict(type='ModuleOutputs', source='backbone.bn1'))
    student = dict(connector=connector) if connector else {}
    distiller = dict(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        connectors=dict(relu=dict(
            type='mmrazor.TorchFunctionalConnector',
            function_name='relu',
            func_args=dict(inplace=True),
        )),
        distill_losses={
            f'loss_{i}': dict(type='mmrazor.L2Loss', normalize=False)
            for i in range(readers)
        },
        loss_forward_mappings={
            f'loss_{i}': dict(
                s_feature=record(True, **(student if i == 0 else {})),
                t_feature=record(False),
            )
            for i in range(readers)
        },
    )  # fmt: skip
    return tiny.equal_networks(
        tiny.resnet(), kind=kind, distiller=distiller, **keys
    )


def step(algorithm) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    samples = [DataSample().set_gt_label(i) for i in (1, 3)]
    losses = algorithm(images, samples, mode='loss')
    return {k: v for k, v in losses.items() if k.startswith('distill.')}


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_lean_teacher_computes_a_step_again(side, monkeypatch):
    algorithm = classifiers()
    warnings: list[str] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warnings.append)
    for _ in range(2):
        assert step(algorithm)['distill.loss_0'] == 0
    getattr(algorithm, side).backbone.relu.inplace = True
    for _ in range(3):
        assert step(algorithm)['distill.loss_0'] == 0
    # The teacher's forward stops before its activation.
    assert len(warnings) == (1 if side == 'student' else 0)
    assert all('"backbone.bn1" was overwritten' in w for w in warnings)


def test_mmrazors_algorithm_stops_and_copies_from_then_on():
    algorithm = classifiers('SingleTeacherDistill')
    for _ in range(2):
        assert step(algorithm)['distill.loss_0'] == 0
    algorithm.student.backbone.relu.inplace = True
    message = r'ModuleOutputsRecorder of "backbone\.bn1" was overwritten'
    with pytest.raises(OverwrittenRecord, match=message):
        step(algorithm)
    assert step(algorithm)['distill.loss_0'] == 0


def test_nothing_is_copied_where_nothing_is_overwritten():
    algorithm = classifiers()
    returned = []
    algorithm.student.backbone.bn1.register_forward_hook(
        lambda module, inputs, output: returned.append(output)
    )
    step(algorithm), step(algorithm)
    recorder = algorithm.distiller.student_recorders.recorders['rec']
    assert recorder.get_record_data() is returned[1]
    assert recorder.data_buffer[0] is returned[1]


def test_a_connector_that_works_in_place_reaches_no_other_loss():
    algorithm = classifiers(readers=2, connector='relu')
    for _ in range(3):
        found = step(algorithm)
        assert found['distill.loss_0'] > 0  # ReLU on one side
        assert found['distill.loss_1'] == 0


def test_overwritten_deliveries(monkeypatch):
    """The teacher overwrites what it has handed over."""
    from mmpretrain.models import ResNet_CIFAR

    extract = ResNet_CIFAR.forward
    runs = []

    def forward(self, x):
        maps = extract(self, x)
        runs.append(maps[0].clone())
        return maps

    monkeypatch.setattr(ResNet_CIFAR, 'forward', forward)
    config = dict(
        hand_over=dict(
            type='MethodOutputs',
            max_keep_data=1,
            method_path='mmpretrain.models.ResNet_CIFAR.forward',
        )
    )
    algorithm = classifiers()
    distiller = MODELS.build(
        dict(type='mmrazor.ConfigurableDistiller', distill_deliveries=config)
    )
    algorithm.distiller = distiller
    # The teacher goes on to its head, as no record tells it to stop.
    distiller.loss_forward_mappings = {}
    monkeypatch.setattr(last_record, 'wanted_records', lambda *_: None)
    got = []
    algorithm.student.neck.register_forward_pre_hook(
        lambda module, inputs: got.append(inputs[0][0].clone())
    )

    def overwrite(module, inputs, output):
        inputs[0][0].zero_()

    algorithm.teacher.neck.register_forward_hook(overwrite)
    for _ in range(3):
        step(algorithm)
        assert torch.equal(got[-1], runs[-1]) and got[-1].abs().sum() > 0


def test_a_copy_after_a_step_has_recorders_of_its_own():
    algorithm = classifiers()
    step(algorithm)
    other = copy.deepcopy(algorithm)
    assert other.teacher is algorithm.teacher
    assert other.student is not algorithm.student
    nn.init.zeros_(other.student.backbone.bn1.bias)
    assert step(other)['distill.loss_0'] > 0
    assert step(algorithm)['distill.loss_0'] == 0
    other.to(torch.float64)
    assert algorithm.teacher.head.fc.weight.dtype == torch.float32
    algorithm.to(torch.float64)
    assert algorithm.teacher.head.fc.weight.dtype == torch.float64


def test_the_teacher_is_no_submodule():
    algorithm = classifiers()
    assert not any('teacher' in name for name, _ in algorithm.named_modules())
    assert not any('teacher' in key for key in algorithm.state_dict())
    ours = {id(p) for p in algorithm.parameters()}
    assert not ours & {id(p) for p in algorithm.teacher.parameters()}
    assert not algorithm.teacher.training


@pytest.mark.parametrize('update_buffers', [False, True])
@pytest.mark.parametrize(
    'average',
    [
        ExpMomentumEMA,
        ExponentialMovingAverage,
        MomentumAnnealingEMA,
        StochasticWeightAverage,
    ],
)
def test_weight_averages_are_those_of_the_student_alone(
    average, update_buffers
):
    """With a folded teacher, too."""
    algorithm = classifiers(fold_batch_norm=True)
    alone = copy.deepcopy(algorithm.student)
    ours = average(algorithm, update_buffers=update_buffers)
    theirs = average(alone, update_buffers=update_buffers)
    assert ours.module.teacher is algorithm.teacher
    for seed in range(3):
        step(algorithm)
        for student in (algorithm.student, alone):
            torch.manual_seed(seed)
            for value in student.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
        ours.update_parameters(algorithm)
        theirs.update_parameters(alone)
    expected = theirs.module.state_dict()
    found = ours.module.architecture.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    assert not any('teacher' in key for key in ours.state_dict())


def detr_pair(source: str, recorder: str = 'ModuleOutputs'):
    recorders = dict(rec=dict(type=recorder, source=source))
    algorithm = tiny.build(
        architecture=tiny.dino(),
        teacher=tiny.dino(),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=recorders,
            teacher_recorders=recorders,
            distill_losses=dict(loss_l2=dict(type='FeatureL2Loss')),
            loss_forward_mappings=dict(
                loss_l2=dict(preds_S=record(True), preds_T=record(False))
            ),
        ),
    )
    data = algorithm.data_preprocessor(tiny.detection_batch(size=64), True)
    return algorithm, data


@pytest.fixture(scope='module')
def small_detr():
    return detr_pair('bbox_head.cls_branches.1', 'kdvit_mm.MatchingQueries')


def test_head_of_a_detector_without_losses_in_eval_mode(small_detr):
    algorithm, data = small_detr
    plain = []
    handle = algorithm.teacher.bbox_head.cls_branches[1].register_forward_hook(
        lambda m, i, output: plain.append(output)
    )
    with torch.no_grad():
        algorithm.teacher(**copy.deepcopy(data), mode='predict')
    handle.remove()
    losses = algorithm(**data, mode='loss')
    assert algorithm.lean_teachers[0]._mode == 'tensor'
    assert torch.isfinite(losses['distill.loss_l2'])
    recorder = algorithm.distiller.teacher_recorders.recorders['rec']
    assert torch.equal(recorder.get_record_data(), plain[0])
    assert recorder.get_record_data().shape == (2, 12, tiny.CLASSES)
    losses['distill.loss_l2'].backward()
    branch = algorithm.student.bbox_head.cls_branches[1]
    assert branch.weight.grad.abs().sum() > 0


def test_denoising_queries_are_explained(small_detr):
    _, data = small_detr
    plain, _ = detr_pair('bbox_head.cls_branches.1')
    with pytest.raises(ValueError, match=r"type='kdvit_mm\.MatchingQueries'"):
        plain(**data, mode='loss')


def test_a_source_that_is_never_called_says_so(small_detr):
    _, data = small_detr
    algorithm, _ = detr_pair('bbox_head.cls_branches')
    message = (
        r'mode "tensor": teacher_recorders\.rec: "bbox_head\.cls_branches" '
        r'was called 0 times .* asks for record 0\. It is a ModuleList'
    )
    with pytest.raises(ValueError, match=message):
        algorithm(**data, mode='loss')


def test_matching_queries_need_queries():
    with pytest.raises(ValueError, match='GFL has no num_queries'):
        MODELS.build(
            tiny.algorithm(
                distiller=tiny.distiller('bbox_head.gfl_cls', 0)
                | dict(
                    student_recorders=dict(
                        rec=dict(
                            type='kdvit_mm.MatchingQueries',
                            source='bbox_head.gfl_cls',
                        )
                    )
                )
            )
        )


def test_a_teacher_that_writes_into_its_samples_keeps_them_to_itself():
    algorithm = tiny.build()
    data = algorithm.data_preprocessor(tiny.detection_batch(), True)
    extract = algorithm.teacher.extract_feat

    def loss(inputs, samples):
        for sample in samples:
            sample.gt_instances.labels = None
            del sample.gt_instances.bboxes
        return extract(inputs)

    algorithm.teacher.loss = loss
    losses = algorithm(**data, mode='loss')
    assert torch.isfinite(sum(losses['student.loss_bbox']))
    assert len(data['data_samples'][0].gt_instances.bboxes) == 4
