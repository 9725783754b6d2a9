import copy

import pytest
import torch
from torch import nn

from kdvit_mm.registry import MODELS
from kdvit_mm.selection import Phase, Plan
from kdvit_mm.selection.controller import find_controller
from kdvit_mm.selection.probes import (
    choice_regrets,
    image_losses,
    level_benefits,
    regrets,
)
from kdvit_mm.selection.recorder import Pyramid
from kdvit_mm.selection.selectors.learning import above_price
from tests import tiny

CHANNELS, SIZES = 6, (16, 8, 4)
LEVEL_LOSSES = {
    'CWD': dict(type='CWDLoss', loss_weight=3.0),
    'L2': dict(type='FeatureL2Loss', loss_weight=2.0),
    'PKD': dict(type='kdvit_mm.PKDLoss', loss_weight=1.0),
    'MGD': dict(type='kdvit_mm.MGDLoss', alpha_mgd=0.1),
    'FreeKD': dict(type='FreeKDLoss', channels=[CHANNELS]),
    'FGD': dict(
        type='FGDLoss',
        channels=CHANNELS,
        alpha_fgd=0.1,
        beta_fgd=0.1,
        gamma_fgd=0.1,
        lambda_fgd=0.1,
    ),
}
CONNECTOR = dict(
    type='MGDGenerator',
    student_channels=CHANNELS,
    teacher_channels=CHANNELS,
    lambda_mgd=0.0,
)


def pyramid(batch: int, seed: int, scale: tuple = (1, 1, 1)) -> Pyramid:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, CHANNELS, size, size) for size in SIZES]
    maps = Pyramid(
        (torch.randn(shape, generator=generator) * times).requires_grad_()
        for shape, times in zip(shapes, scale, strict=True)
    )
    maps.used = [x.view_as(x) for x in maps]
    return maps


def build(levels, level_loss='CWD', **options) -> nn.Module:
    """A loss on three levels whose selector always chooses ``levels``."""
    selector = dict(type='FixedLevels', levels=levels)
    if levels is None:
        selector = dict(type='AllLevels')
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            _scope_='kdvit_mm',
            type='SelectedLevelsLoss',
            num_levels=3,
            selector=selector,
            loss=LEVEL_LOSSES[level_loss],
            **options,
        )
    )


def choose(loss: nn.Module, pairs: list[list[int]]) -> None:
    """Lets the selector choose given pairs of image and level."""
    levels = torch.tensor(pairs, dtype=torch.bool)
    loss.controller.selector.choose = lambda state: Plan.of(
        levels, state.costs
    )


@pytest.mark.parametrize('name', LEVEL_LOSSES)
def test_is_the_levels_loss_on_the_chosen_images(name):
    student, teacher = pyramid(3, 0), pyramid(3, 1)
    samples = tiny.detection_batch(3, 128)['data_samples']
    connector = CONNECTOR if name == 'MGD' else None
    loss = build(None, name, connector=connector)
    pairs = [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    choose(loss, pairs)
    value = loss(student, teacher, samples)
    value.backward()
    expected = torch.zeros(())
    for level, images in ((0, [0, 1]), (1, [1, 2])):
        # The chosen images alone, weighted by their share of the batch.
        expected = expected + 2 / 3 * loss.level_wise.level_loss(
            level,
            student[level].detach()[images],
            teacher[level][images],
            [samples[n] for n in images],
        )
    torch.testing.assert_close(value, expected.detach())
    for level in range(3):
        gradient = student[level].grad
        for n in range(3):
            got = 0 if gradient is None else gradient[n].abs().sum()
            assert (got > 0) == bool(pairs[n][level]), (n, level)


@pytest.mark.parametrize('name', LEVEL_LOSSES)
def test_all_levels_are_the_plain_sum(name):
    student, teacher = pyramid(2, 0), pyramid(2, 1)
    samples = tiny.detection_batch(2, 128)['data_samples']
    loss = build(None, name)
    total = sum(
        loss.level_wise.level_loss(level, *pair, samples)
        for level, pair in enumerate(zip(student, teacher, strict=True))
    )
    torch.testing.assert_close(loss(student, teacher, samples), total)


def test_unchosen_pairs_cost_no_connector_and_no_loss():
    loss = build([1], 'MGD', connector=CONNECTOR)
    student, teacher = pyramid(2, 0), pyramid(2, 1)
    loss(student, teacher)  # counts the costs, which runs every level once
    runs: list[tuple[str, int, int]] = []
    for kind in ('losses', 'connectors'):
        for level, module in enumerate(getattr(loss.level_wise, kind)):
            module.register_forward_hook(
                lambda _, inputs, __, kind=kind, level=level: runs.append(
                    (kind, level, len(inputs[0]))
                )
            )
    choose(loss, [[0, 1, 0], [1, 0, 0]])
    loss(student, teacher)
    assert sorted(runs) == [
        ('connectors', 0, 1),
        ('connectors', 1, 1),
        ('losses', 0, 1),
        ('losses', 1, 1),
    ]


def test_a_level_that_no_image_chose_adds_zero_and_zero_gradients():
    loss = build([0], 'MGD', connector=CONNECTOR)
    # Not even looked at.
    student = pyramid(2, 0, scale=(1, 1, torch.nan))
    teacher = pyramid(2, 1)
    alone = loss.level_wise.level_loss(0, student[0], teacher[0])
    value = loss(student, teacher)
    torch.testing.assert_close(value, alone)
    value.backward()
    for parameter in loss.level_wise.connectors[2].parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert any(
        p.grad.any() for p in loss.level_wise.connectors[0].parameters()
    )


def test_costs_are_the_counted_operations():
    loss = build(None, 'L2')
    costs = loss.level_wise.level_costs(pyramid(2, 0), pyramid(2, 1), None)
    # Each step of the squared error is proportional to the positions.
    areas = torch.tensor([float(s * s) for s in SIZES])
    torch.testing.assert_close(costs, areas / areas.sum(), rtol=5e-2, atol=0)
    state = copy.deepcopy(torch.get_rng_state())
    loss.level_wise.level_costs(pyramid(2, 0), pyramid(2, 1), None)
    assert torch.equal(state, torch.get_rng_state())


def test_counting_costs_leaves_batch_norms_alone():
    connector = dict(
        type='ConvModuleConnector',
        in_channel=CHANNELS,
        out_channel=CHANNELS,
        norm_cfg=dict(type='BN'),
    )
    loss = build([0], 'L2', connector=connector)
    before = copy.deepcopy(loss.level_wise.connectors[1].state_dict())
    loss(pyramid(2, 0), pyramid(2, 1))
    after = loss.level_wise.connectors[1].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert loss.training
    assert loss.level_wise.connectors[1].training


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(loss=[LEVEL_LOSSES['CWD']] * 2), 'loss has 2'),
        (dict(connector=[CONNECTOR] * 4), 'connector has 4 configs'),
        (
            dict(selector=dict(type='FixedLevels', levels=[3])),
            'levels',
        ),
        (
            dict(selector=dict(type='PPOLevels', lambda_cost=-1.0)),
            'lambda_cost',
        ),
    ],
)
def test_wrong_options_are_named(changes, words):
    config = dict(
        _scope_='kdvit_mm',
        type='SelectedLevelsLoss',
        num_levels=3,
        selector=dict(type='AllLevels'),
        loss=LEVEL_LOSSES['CWD'],
    )
    with pytest.raises(ValueError, match=words):
        MODELS.build(config | changes)


def test_a_pyramid_of_other_levels_is_named():
    loss = build(None)
    with pytest.raises(ValueError, match=r'preds_T .* num_levels=3 maps'):
        loss(pyramid(2, 0), pyramid(2, 1)[:2])
    with pytest.raises(ValueError, match=r'preds_T .* without data_idx'):
        loss(tuple(pyramid(2, 0)), pyramid(2, 1)[0])


def levels_distiller(**loss) -> dict:
    pyramid = dict(type='FPNLevelSelection', source='neck')
    inputs = dict(type='ModuleInputs', source='')
    level_loss = dict(type='CWDLoss', loss_weight=1.0)
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(pyramid=pyramid, inputs=inputs),
        teacher_recorders=dict(pyramid=pyramid),
        distill_losses=dict(
            loss_levels=dict(
                type='SelectedLevelsLoss',
                num_levels=5,
                **{'loss': level_loss, **loss},
            )
        ),
        loss_forward_mappings=dict(
            loss_levels=dict(
                preds_S=dict(recorder='pyramid', from_student=True),
                preds_T=dict(recorder='pyramid', from_student=False),
                data_samples=dict(
                    recorder='inputs', from_student=True, data_idx=1
                ),
            )
        ),
    )


def detector(**loss) -> nn.Module:
    torch.manual_seed(0)
    loss.setdefault('selector', dict(type='AllLevels'))
    model = MODELS.build(tiny.algorithm(distiller=levels_distiller(**loss)))
    return model.train()


def step(model: nn.Module, data: dict) -> torch.Tensor:
    """Quality after a backward of the sum of all losses."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    total, _ = model.parse_losses(model(**batch, mode='loss'))
    total.backward()
    _, outcome = find_controller(model).after_step(None)
    return outcome.quality


def test_all_levels_of_a_detector_equal_plain_cwd_bit_for_bit():
    data = tiny.detection_batch(2, 128)
    chosen, plain = detector(), MODELS.build(tiny.algorithm())
    plain.load_state_dict(chosen.state_dict(), strict=False)
    step(chosen, data)
    batch = plain.train().data_preprocessor(copy.deepcopy(data), True)
    total, _ = plain.parse_losses(plain(**batch, mode='loss'))
    total.backward()
    for (name, a), (_, b) in zip(
        chosen.student.named_parameters(),
        plain.student.named_parameters(),
        strict=True,
    ):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_quality_is_the_normalised_product_of_the_two_gradients():
    data = tiny.detection_batch(2, 128)
    model = detector()
    expected = level_benefits(model, data)[1].quality
    # The same model in the same mode: batch norms differ in training.
    model.eval()
    find_controller(model).train()
    torch.testing.assert_close(step(model, data), expected)
    assert expected.shape == (2, 5)
    assert expected.abs().max() <= 1


def test_quality_of_some_levels_estimates_the_norm_of_the_others():
    data = tiny.detection_batch(2, 128)
    model = detector(selector=dict(type='FixedLevels', levels=[0, 2]))
    model.eval()
    controller = find_controller(model).train()
    controller.before_step(Phase.LEARNING, None)
    whole = step(model, data)  # learns the norms of all levels
    controller.before_step(Phase.JOINT, None)
    model.zero_grad()
    some = step(model, data)
    assert some[:, [1, 3, 4]].isnan().all()
    known = [0, 2]
    torch.testing.assert_close(
        some[:, known], whole[:, known], rtol=0.2, atol=0
    )


def test_benefits_leave_no_trace():
    data = tiny.detection_batch(2, 128)
    model = detector(selector=dict(type='PPOLevels'))
    step(model, data)
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.student.parameters()]
    state = torch.get_rng_state()
    controller = find_controller(model)
    controller.before_step(Phase.WARMUP, None)
    level_benefits(model, data)
    image_losses(model, data)
    choice_regrets(model, data)
    assert (controller.phase, controller.plan) == (Phase.WARMUP, None)
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(value.nan_to_num(), after[name].nan_to_num()), name
    for grad, parameter in zip(grads, model.student.parameters(), strict=True):
        assert torch.equal(grad, parameter.grad)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_best_sets_and_regrets_by_hand():
    worth = torch.tensor([[1.0, -1.0], [-1.0, 0.5], [-2.0, -1.0]])
    best = [[True, False], [False, True], [False, True]]
    assert above_price(worth).tolist() == best
    costs = torch.tensor([0.75, 0.25])
    chosen = torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    found = regrets(worth, costs, chosen)
    # Best: 1 + 0.5 - 1. Means of the levels: -2/3 and -1/2.
    best_value = 0.5 / 3
    expected = dict(
        policy=best_value - (1 - 1 - 1) / 3,
        all=best_value - (-3.5 / 3),
        fixed=best_value - (-0.5),
        random=best_value - (0.75 + 0.75 + 0.25) / 3 * (-3.5 / 3),
    )
    assert found == pytest.approx(expected)


def test_image_losses_are_those_of_each_image_alone():
    data = tiny.detection_batch(2, 64)
    model = detector(selector=dict(type='FixedLevels', levels=[0]))
    found = image_losses(model, data)
    for n in range(2):
        one = {key: value[n : n + 1] for key, value in data.items()}
        _, outcome = level_benefits(model, one)
        assert found[n] > outcome.losses.sum() > outcome.losses[0] > 0


def test_what_earlier_versions_had_says_what_is_there_instead():
    loss = build(None)
    state = loss.state_dict() | {'selector.step': torch.zeros(())}
    with pytest.raises(ValueError, match=r'earlier version .*student alone'):
        loss.load_state_dict(state, strict=False)
    with pytest.raises(TypeError, match=r"Write reward=dict\(type='Aligned"):
        build(None, quality=dict(type='AlignedQuality'))
