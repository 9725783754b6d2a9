import copy
import math

import pytest
import torch
from torch import nn

from kdvit_mm.models.losses.feature.ofd import OFDLoss, batch_norm_margin
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)


def norm_of(weight, bias):
    norm = nn.BatchNorm2d(len(weight), dtype=weight.dtype)
    norm.load_state_dict(dict(weight=weight, bias=bias), strict=False)
    return norm


@parametrize('ofd', 'margin')
def test_margin_equals_official_code(case):
    weight, bias = case.inputs['bn_weight'], case.inputs['bn_bias']
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        norm = norm_of(weight.to(dtype), bias.to(dtype))
        torch.testing.assert_close(
            batch_norm_margin(norm).double(),
            case.outputs['margin'],
            rtol=tolerance,
            atol=0,
        )


@parametrize('ofd', 'loss')
def test_equals_official_code(case):
    """The margin is that of a batch norm that puts out nothing else."""
    margin = case.inputs['margin'].flatten()
    norm = norm_of(torch.zeros_like(margin), margin)
    torch.testing.assert_close(batch_norm_margin(norm), margin)
    # The official loss is a sum over the images.
    loss = OFDLoss(loss_weight=len(case.inputs['source']))
    assert_golden(lambda x: loss(x['source'], x['target'], norm), case)


def test_margin_is_the_mean_of_what_is_negative():
    norm = norm_of(
        torch.tensor([1.0, -0.5, 2.0, 0.1]), torch.tensor([0.0, 1.0, -3, -9])
    )
    torch.manual_seed(0)
    values = norm(torch.randn(2_000_000, 4, 1, 1)).double()
    negative = values.where(values < 0, torch.nan).nanmean((0, 2, 3))
    torch.testing.assert_close(
        batch_norm_margin(norm).double(), negative, rtol=0.02, atol=0
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_margin_of_rare_and_of_constant_values(dtype):
    norm = norm_of(
        torch.tensor([2.0, -2, 2, 0, 0, 0], dtype=dtype),
        torch.tensor([6.1, 6.25, 60, -3, 3, 0], dtype=dtype),
    )
    margin = batch_norm_margin(norm)
    assert margin.dtype == torch.float32
    # A thousandth lies below -3.09 deviations, 6.18 here.
    assert margin[0] > -1
    assert margin[1:].tolist() == [-6, -6, -3, 0, 0]


def slow_ofd(student, teacher, weight, bias):
    """The paper's cases, value by value."""
    total = 0
    pairs = zip(weight.tolist(), bias.tolist(), strict=True)
    for c, (w, b) in enumerate(pairs):
        below = math.erfc(b / abs(w) / math.sqrt(2)) / 2
        density = math.exp(-((b / w) ** 2) / 2) / math.sqrt(2 * math.pi)
        margin = b - abs(w) * density / below if below > 1e-3 else -3 * abs(w)
        values = (x[:, c].flatten() for x in (student, teacher))
        for s, t in zip(*values, strict=True):
            if t > 0:
                total = total + (s - t) ** 2
            elif t > margin:
                total = total + (s - t).relu() ** 2
            else:
                total = total + (s - margin).relu() ** 2
    return total / len(student)


@pytest.mark.parametrize('shape', [(2, 5, 4, 3), (1, 3, 1, 1)])
def test_equals_the_formula(shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], dtype=torch.float64)
    bias[-1] = 4 * weight[-1].abs()
    student.requires_grad_()
    loss = OFDLoss(3.0)(student, teacher, norm_of(weight, bias))
    expected = 3 * slow_ofd(student, teacher, weight, bias)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_by_hand():
    """The margin of N(0, 1) is -0.798."""
    norm = nn.BatchNorm2d(1)
    for student, teacher, expected in [
        (2, 1, 1),
        (-1, 1, 4),
        (0, -0.5, 0.25),
        (-0.6, -0.5, 0),
        (0, -5, 2 / math.pi),
        (-1, -5, 0),
    ]:
        pair = (torch.full((1, 1, 1, 1), float(x)) for x in (student, teacher))
        assert OFDLoss()(*pair, norm).item() == pytest.approx(expected)


def test_the_teacher_is_averaged_to_the_student():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 3), torch.randn(2, 3, 4, 3)
    small = teacher.reshape(2, 3, 2, 2, 3).mean(3)
    norm = nn.BatchNorm2d(3)
    loss = OFDLoss()(student, teacher, norm)
    torch.testing.assert_close(loss, OFDLoss()(student, small, norm))
    loss = OFDLoss()(teacher, small, norm)
    large = small.repeat_interleave(2, 2)
    torch.testing.assert_close(loss, OFDLoss()(teacher, large, norm))


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    norm = nn.BatchNorm2d(shape[1])
    assert_robust(
        lambda s, t: OFDLoss()(s, t, norm), *hard_pair(dtype, layout, shape)
    )


def test_errors():
    maps, norm = torch.randn(2, 3, 4, 4), nn.BatchNorm2d(3)
    for wrong in (
        None,
        nn.Identity(),
        nn.GroupNorm(3, 3),
        nn.BatchNorm2d(3, affine=False),
    ):
        with pytest.raises(
            ValueError, match=r"norm_T is \w+, .*type='kdvit_mm\.Module'"
        ):
            OFDLoss()(maps, maps, wrong)
    with pytest.raises(ValueError, match=r'norm_T has 3 channels.*\(2, 5, 4'):
        OFDLoss()(torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4), norm)
    with pytest.raises(
        ValueError,
        match=r"in_channel=5, out_channel=3, norm_cfg=dict\(type='BN'\)",
    ):
        OFDLoss()(torch.randn(2, 5, 4, 4), maps, norm)
    with pytest.raises(ValueError, match=r'\(4, 3, 4, 4\).*same images'):
        OFDLoss()(torch.randn(4, 3, 4, 4), maps, norm)


STAGE = dict(recorder='stage', record_idx=1, data_idx=0)


def make_distiller():
    """The last stage before its last ReLU, of ResNet-18 both."""
    relu = dict(type='ModuleInputs', source='backbone.layer4.1.relu')
    norm = dict(type='kdvit_mm.Module', source='backbone.layer4.1.bn2')
    return dict(
        student_recorders=dict(stage=relu),
        teacher_recorders=dict(stage=relu, norm=norm),
        connectors=dict(
            stage=dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                norm_cfg=dict(type='BN'),
                act_cfg=None,
            )
        ),
        distill_losses=dict(
            loss_ofd=dict(type='kdvit_mm.OFDLoss', loss_weight=1e-3)
        ),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                preds_S=dict(STAGE, from_student=True, connector='stage'),
                preds_T=dict(STAGE, from_student=False),
                norm_T=dict(recorder='norm', from_student=False),
            )
        ),
    )


def teacher_config():
    # Blocks that start as the identity put out nothing negative.
    config = tiny.resnet(8)
    config.backbone.zero_init_residual = False
    return config


def test_on_a_classifier():
    from tests.test_models.test_losses.test_dkd import classification_batch

    algorithm, losses = train_step(
        tiny.resnet(4),
        teacher_config(),
        make_distiller(),
        classification_batch(),
    )
    distiller = algorithm.distiller
    student, teacher = (
        distiller.get_record(**STAGE, from_student=side)
        for side in (True, False)
    )
    # Before the ReLU, and after the shortcut was added.
    assert (teacher < 0).any()
    connector = distiller.connectors.stage
    assert connector.conv_module.conv.weight.grad.abs().sum() > 0
    norm = algorithm.teacher.backbone.layer4[1].bn2
    expected = 1e-3 * slow_ofd(
        connector(student), teacher, norm.weight, norm.bias
    )
    torch.testing.assert_close(losses['distill.loss_ofd'], expected)


@pytest.mark.parametrize('inside', [True, False])
def test_of_a_folded_teacher(inside):
    """Its recorded batch norm is left alone, as a copy needs it, too."""
    from tests.test_models.test_losses.test_dkd import classification_batch

    config = dict(type='ConfigurableDistiller', **make_distiller())
    if not inside:
        block = dict(type='ModuleOutputs', source='backbone.layer4.1')
        config['teacher_recorders']['stage'] = block
        preds_T = dict(recorder='stage', from_student=False)
        config['loss_forward_mappings']['loss_ofd']['preds_T'] = preds_T
    values = []
    for fold in (False, True):
        torch.manual_seed(0)
        algorithm = MODELS.build(
            dict(
                type='kdvit_mm.LeanTeacherDistill',
                architecture=tiny.resnet(4),
                teacher=teacher_config(),
                distiller=copy.deepcopy(config),
                fold_batch_norm=fold,
            )
        )
        algorithm.init_weights()
        norm = algorithm.teacher.backbone.layer4[1].bn2
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -2, 2)
        data = algorithm.data_preprocessor(classification_batch(), True)
        for model in (algorithm, copy.deepcopy(algorithm)):
            values.append(model(**data, mode='loss')['distill.loss_ofd'])
        names = [name for name, _ in algorithm.teacher.named_parameters()]
        assert 'backbone.layer4.1.bn2.weight' in names
        assert ('backbone.layer3.1.bn2.weight' in names) is not fold
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-4, atol=0)
