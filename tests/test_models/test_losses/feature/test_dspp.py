import math

import pytest
import torch

from kdvit_mm.models.losses.feature.dspp import DSPPLoss, region_averages
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)


@parametrize('dspp', 'spp')
def test_averages_equal_official_code(case):
    levels = case.settings['levels']
    assert_golden(
        lambda x: (region_averages(x['x'], levels) * x['cot']).sum(), case
    )


@parametrize('dspp', 'dec')
def test_equals_official_code(case):
    s = case.settings
    loss = DSPPLoss(s['max_w'], s['min_w'], s['levels'], s['topk_divisor'])
    assert_golden(lambda x: loss(x['f_s'], x['f_t']), case)


@parametrize('dspp', 'plain')
def test_earlier_maps_equal_official_code(case):
    loss = DSPPLoss(num_levels=case.settings['levels'])

    def call(inputs):
        nothing = inputs['f_t'].new_ones(len(inputs['f_t']), 1, 1, 1)
        return loss([inputs['f_s'], nothing], [inputs['f_t'], nothing])

    assert_golden(call, case)


def slow_averages(maps, num_levels):
    """Region by region, what lies outside of the map counting as 0."""
    parts = []
    for level in range(1, num_levels + 1):
        sides = [math.ceil(size / level) for size in maps.shape[1:]]
        starts = []
        for side, size in zip(sides, maps.shape[1:], strict=True):
            left = min((side * level - size + 1) // 2, side // 2)
            last = size + left - side
            starts.append(range(-left, last + 1, side))
        for channel in maps:
            for y in starts[0]:
                for x in starts[1]:
                    region = channel[
                        max(y, 0) : y + sides[0], max(x, 0) : x + sides[1]
                    ]
                    parts.append(region.sum() / (sides[0] * sides[1]))
    return torch.stack(parts)


def slow_dspp(student, teacher, max_weight, min_weight, levels, topk):
    """The paper's formula, image by image."""
    total = 0
    for s, t in zip(student, teacher, strict=True):
        v_s, v_t = slow_averages(s, levels), slow_averages(t, levels)
        v_s, v_t = v_s / (v_s @ v_s).sqrt(), v_t / (v_t @ v_t).sqrt()
        order = v_t.argsort(descending=True)
        k = int(len(v_t) / topk)
        top, rest = ((v_s - v_t)[i] for i in (order[:k], order[k:]))
        total = total + max_weight * (top @ top).sqrt()
        total = total + min_weight * (rest @ rest).sqrt()
    return total / len(student)


@pytest.mark.parametrize(
    ('size', 'levels'),
    # The official code stops on all but the first two.
    [
        ((7, 7), 3),
        ((6, 9), 2),
        ((2, 2), 3),
        ((3, 3), 4),
        ((4, 4), 5),
        ((5, 5), 4),
        ((9, 6), 4),
        ((7, 8), 7),
        ((1, 4), 4),
    ],
)
@pytest.mark.parametrize('batch', [1, 2])
def test_equals_the_formula(size, levels, batch):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, batch, 3, *size, dtype=torch.float64)
    student.requires_grad_()
    loss = DSPPLoss(2.0, 0.5, levels, 4, loss_weight=3)(student, teacher)
    expected = 3 * slow_dspp(student, teacher, 2.0, 0.5, levels, 4)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_by_hand():
    """Of (3, 4) and (4, 3) over 5 the first entry is the teacher's least."""
    student = torch.tensor([[[[4.0]], [[3.0]]]])
    teacher = torch.tensor([[[[3.0]], [[4.0]]]])
    loss = DSPPLoss(10.0, 1.0, num_levels=1, topk=2)(student, teacher)
    assert loss.item() == pytest.approx(10 * 0.2 + 0.2)
    loss = DSPPLoss(10.0, 1.0, num_levels=1, topk=3)(student, teacher)
    assert loss.item() == pytest.approx(0.08**0.5)


def test_equal_maps_have_no_loss_and_no_gradient():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = DSPPLoss()(maps, maps)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert not maps.grad.any()


def test_only_the_last_map_is_decoupled():
    torch.manual_seed(0)
    students = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    teachers = [torch.randn_like(x) for x in students]
    plain = DSPPLoss(0, 1.0, topk=1000)  # no entry is among the largest
    torch.testing.assert_close(
        DSPPLoss()(students, teachers),
        plain(students[0], teachers[0]) + DSPPLoss()(students[1], teachers[1]),
    )


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    assert_robust(DSPPLoss(), *hard_pair(dtype, layout, shape))


def test_maps_of_zeros():
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    DSPPLoss()(student, torch.ones(1, 2, 3, 3)).backward()
    assert not student.grad.any()


def test_errors():
    for options in (dict(num_levels=0), dict(topk=0)):
        with pytest.raises(ValueError, match='num_levels and topk'):
            DSPPLoss(**options)
    with pytest.raises(ValueError, match='in_channel=3, out_channel=5'):
        DSPPLoss()(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))


@pytest.mark.filterwarnings('ignore:Unnecessary conv bias')
def test_on_a_classifier():
    from tests.test_models.test_losses.test_dkd import classification_batch

    record = dict(last=dict(type='ModuleOutputs', source='backbone.layer4'))
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        connectors=dict(
            regressor=dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                bias=True,
                norm_cfg=dict(type='BN'),
            )
        ),
        distill_losses=dict(loss_dspp=dict(type='kdvit_mm.DSPPLoss')),
        loss_forward_mappings=dict(
            loss_dspp=dict(
                preds_S=dict(
                    recorder='last', from_student=True, connector='regressor'
                ),
                preds_T=dict(recorder='last', from_student=False),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('last', side) for side in (True, False)
    )
    connector = algorithm.distiller.connectors.regressor
    expected = slow_dspp(connector(student), teacher, 0.9, 2.5, 4, 5)
    torch.testing.assert_close(losses['distill.loss_dspp'], expected)
