import pytest
import torch
from mmrazor.models.architectures.connectors import ConvModuleConnector

from kdvit_mm.models.losses.feature.feature_l2 import FeatureL2Loss
from tests import tiny
from tests.examples import Example, neck
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)

EXAMPLES = [Example(dict(type='FeatureL2Loss'), neck, 'neck')]

REGRESSORS = {
    'strided': dict(kernel_size=3, stride=2, padding=1),
    'transposed': dict(
        conv_cfg=dict(type='deconv'), kernel_size=4, stride=2, padding=1
    ),
}


def regressor(student, teacher):
    """mmrazor's connector in the form that mdistiller's regressor takes."""
    (s_h, s_w), (t_h, t_w) = student.shape[2:], teacher.shape[2:]
    if s_h == 2 * t_h:
        form = REGRESSORS['strided']
    elif 2 * s_h == t_h:
        form = REGRESSORS['transposed']
    else:
        form = dict(kernel_size=(1 + s_h - t_h, 1 + s_w - t_w))
    return ConvModuleConnector(
        student.size(1),
        teacher.size(1),
        bias=True,
        norm_cfg=dict(type='BN'),
        **form,
    )


@pytest.mark.filterwarnings('ignore:Unnecessary conv bias')
@parametrize('fitnet')
def test_equals_official_code(case):
    connector = regressor(case.inputs['feat_s'], case.inputs['feat_t'])
    module = connector.conv_module
    loss = FeatureL2Loss()

    def call(inputs):
        module.load_state_dict(case.params)
        return loss(connector(inputs['feat_s']), inputs['feat_t'])

    assert_golden(call, case, module)
    for key, expected in case.after.items():
        torch.testing.assert_close(
            module.state_dict()[key], expected, check_dtype=False
        )


@pytest.mark.filterwarnings('ignore:Unnecessary conv bias')
@pytest.mark.parametrize(
    ('size', 'line'),
    [
        ((4, 4), 'kernel_size=3, stride=2, padding=1'),
        ((16, 16), "'deconv'.*kernel_size=4, stride=2, padding=1"),
        ((7, 5), r'kernel_size=\(2, 4\)'),
        ((9, 3), 'one height and width'),
    ],
)
def test_error_names_the_regressor(size, line):
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, *size)
    with pytest.raises(ValueError, match=line) as error:
        FeatureL2Loss()(student, teacher)
    assert '(2, 3, 8, 8)' in str(error.value)
    if 'connectors=' not in str(error.value):
        return
    keys = str(error.value).partition("ConvModuleConnector', ")[2]
    keys = keys.partition(')) and')[0]
    connected = ConvModuleConnector(**eval(f'dict({keys})'))(student)
    assert FeatureL2Loss()(connected, teacher) > 0


def test_errors():
    with pytest.raises(ValueError, match='in_channel=3, out_channel=5'):
        FeatureL2Loss()(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))
    with pytest.raises(ValueError, match='1 levels and preds_T has 0'):
        FeatureL2Loss()(torch.randn(2, 3), [])
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(2, 5\)'):
        FeatureL2Loss()(torch.randn(2, 3), torch.randn(2, 5))


@pytest.mark.parametrize('shape', [(2, 3), (2, 7, 4), (2, 3, 4, 5)])
def test_equals_the_formula(shape):
    torch.manual_seed(0)
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    loss = FeatureL2Loss(loss_weight=100)(student, teacher)
    loss.backward()
    error, number = student.detach() - teacher, teacher.numel()
    expected = 100 * (error**2).sum() / number
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(student.grad, 200 * error / number)


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    assert_robust(FeatureL2Loss(), *hard_pair(dtype, layout, shape))


def test_no_rows():
    rows = torch.zeros(0, 4, requires_grad=True)
    loss = FeatureL2Loss()(rows, torch.zeros(0, 4))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.filterwarnings('ignore:Unnecessary conv bias')
def test_on_a_detector():
    stage = dict(stage=dict(type='ModuleOutputs', source='backbone.layer2'))
    distiller = dict(
        student_recorders=stage,
        teacher_recorders=stage,
        connectors=dict(
            regressor=dict(
                type='ConvModuleConnector',
                in_channel=16,
                out_channel=32,
                kernel_size=1,
                bias=True,
                norm_cfg=dict(type='BN'),
            )
        ),
        distill_losses=dict(
            loss_hint=dict(type='FeatureL2Loss', loss_weight=100)
        ),
        loss_forward_mappings=dict(
            loss_hint=dict(
                preds_S=dict(
                    from_student=True, recorder='stage', connector='regressor'
                ),
                preds_T=dict(from_student=False, recorder='stage'),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.gfl(8), tiny.gfl(16), distiller, tiny.detection_batch(size=64)
    )
    student, teacher = (
        algorithm.distiller.get_record('stage', side) for side in (True, False)
    )
    assert student.shape[1:] == (16, 8, 8)
    assert teacher.shape[1:] == (32, 8, 8)
    connector = algorithm.distiller.connectors.regressor
    assert connector.conv_module.conv.weight.grad.abs().sum() > 0
    expected = 100 * (connector(student) - teacher).square().mean()
    torch.testing.assert_close(losses['distill.loss_hint'], expected)
