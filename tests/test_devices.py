"""No forward mixes devices, which a machine without a GPU can tell too.

Gradients and their use by an optimiser are left to ``test_gpu.py``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

import kdvit_mm  # noqa: F401
from kdvit_mm.models.ensembles import MERGERS
from kdvit_mm.registry import MODELS
from kdvit_mm.selection import Phase, State
from kdvit_mm.selection.controller import find_controller
from kdvit_mm.selection.gradients import GradientWatch
from kdvit_mm.selection.probes import choice_regrets, image_losses
from kdvit_mm.selection.recorder import Pyramid
from tests.examples import Example, read_examples, samples
from tests.fake_gpu import GPU, fake_gpu, maps
from tests.loss_checks import classification_batch
from tests.test_models.test_algorithms import (
    test_multi_teacher_distill,
    test_mutual_distill,
    test_self_distill,
)
from tests.tiny import algorithm, detection_batch, gfl, resnet

pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='fake tensors of this torch know no absent GPU',
)
CASES: dict[str, Callable[[], Any]] = {}
SIZES = (8, 4, 2)
COSTS = (0.6, 0.3, 0.1)
# All that it computes is of gradients.
OF_GRADIENTS = {'DisWOT'}
SLOW = ('LeanTeacherDistill', 'FreeKDPromptLearning', 'ResNeXt18')


def case(*names: str) -> Callable:
    def add(function: Callable) -> Callable:
        CASES.update(dict.fromkeys(names, function))
        return function

    return add


def build(kind: str, **options: Any) -> nn.Module:
    return MODELS.build(dict(type=f'kdvit_mm.{kind}', **options)).to(GPU)


def pyramid() -> Pyramid:
    levels = Pyramid(maps(2, 4, size, size) for size in SIZES)
    levels.used = [maps(2, 4, size, size) for size in SIZES]
    return levels


def run_examples(examples: list[Example]) -> Callable[[], None]:
    """What the own test file of a loss or connector has to show of it."""

    def run() -> None:
        for example in examples:
            options = dict(example.config)
            module = build(options.pop('type'), **options)
            with GPU:
                inputs = example.inputs()
            module(**inputs)

    return run


for kind, examples in read_examples().items():
    case(kind)(run_examples(examples))


@case('SSKDHeadLearning', 'RotatedViewsDataPreprocessor')
def sskd_head() -> None:
    config = resnet()
    config.data_preprocessor.type = 'kdvit_mm.RotatedViewsDataPreprocessor'
    learning = build('SSKDHeadLearning', architecture=config, channels=32)
    data = learning.data_preprocessor(classification_batch(), True)
    learning(**data, mode='loss')


@case('TwoViewDataPreprocessor')
def two_views() -> None:
    from mmpretrain.structures import DataSample

    images = [torch.zeros(2, 3, 8, 8, dtype=torch.uint8) for _ in range(2)]
    labels = [DataSample().set_gt_label(label) for label in range(2)]
    preprocessor = build('TwoViewDataPreprocessor', mean=[1.0], std=[2.0])
    batch = preprocessor(dict(inputs=images, data_samples=labels), True)
    assert batch['inputs'].device == GPU


SELECTORS = dict(
    AllLevels=[{}],
    FixedLevels=[dict(levels=[1])],
    RandomLevels=[dict(rate=0.3), dict(cost=0.7)],
    GreedyLevels=[{}],
    RegressedLevels=[{}],
    GatedLevels=[{}],
    PPOLevels=[{}, dict(frozen=True)],
    JointPPOLevels=[{}],
    ShuffledPPOLevels=[{}],
    ReinforceLevels=[{}],
)


def choose(kind: str, options: dict) -> None:
    """Chooses, is told what came of it, learns and chooses again."""
    selector = build(kind, num_levels=3, lambda_cost=0.1, **options)
    state = State(pyramid(), pyramid(), torch.tensor(COSTS))
    for mode in (True, False):
        selector.train(mode)
        plan = selector.plan(state)
        found = [x for x in vars(plan).values() if x is not None]
        assert {x.device for x in found} == {GPU}
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


@case('AlignedReward', 'MeasuredReward')
def rewards() -> None:
    applied = torch.ones(2, 3, device=GPU) > 0
    watch = GradientWatch(3)
    watch.watch(pyramid(), applied)
    # What autograd does in a backward.
    for level, size in enumerate(SIZES):
        for kind in ('task', 'distill'):
            gradient = torch.rand(2, 4, size, size, device=GPU)
            watch.notice(level, applied[:, level], kind, gradient)
    gradients = watch.take()
    assert gradients.distill_norms.device == GPU
    for kind in ('AlignedReward', 'MeasuredReward'):
        reward = build(kind, num_levels=3)
        measure = partial(torch.rand, 2, device=GPU)
        reward.before_step(measure)
        found = reward.after_step(applied, gradients, measure)
        assert found.device == GPU


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
    assert loss(pyramid(), pyramid()).device == GPU


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
        ('GatedLevels', dict(reward=dict(type='MeasuredReward'))),
    ):
        loss = build(
            'SelectedLevelsLoss',
            selector=dict(type=kind),
            loss=dict(type='CWDLoss'),
            num_levels=3,
            **more,
        )
        for phase in Phase:
            loss.controller.before_step(phase, None)
            with GPU:
                found = samples()
            assert loss(pyramid(), pyramid(), found).device == GPU
            outcome = loss.controller.outcome
            assert {outcome.mask.device, outcome.losses.device} == {GPU}
        assert loss.level_wise._nothing(0, GPU).device == GPU


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


@case('SelectiveTeacherDistill')
def selective_teacher() -> None:
    # One of its two images, both and none.
    for rate, seed in (0.5, 1), (0.95, 0), (0.01, 0):
        chosen = dict(type='RandomImages', rate=rate, seed=seed)
        config = algorithm('SelectiveTeacherDistill', selector=chosen)
        train_step(MODELS.build(config).to(GPU))


@case('MultiTeacherDistill', 'Teachers')
def several_teachers() -> None:
    for options in ({}, dict(weights='loss')):
        model = test_multi_teacher_distill.build(**options).to(GPU)
        train_step(model, 64)


@case('MutualDistill')
def mutual() -> None:
    model = test_mutual_distill.build().to(GPU)
    model(**test_mutual_distill.data(model), mode='loss')


@case('SelfDistill')
def taught_by_itself() -> None:
    model = test_self_distill.build().to(GPU)
    model(**test_self_distill.data(model), mode='loss')


@case('Ensemble')
def ensemble() -> None:
    members = [MODELS.build(resnet()) for _ in range(2)]
    model = build('Ensemble', members=members, merger=MERGERS['mmpretrain'])
    model(**model.data_preprocessor(classification_batch(), False))


@case('FreeKDPromptLearning')
def prompt_learning() -> None:
    train_step(
        build('FreeKDPromptLearning', architecture=gfl(), channels=[16] * 5)
    )


def backbone(kind: str, size: int = 32, **options: Any) -> None:
    build(kind, **options)(maps(2, 3, size, size))


for kind, options in dict(
    CIFARResNet=dict(depth=8),
    CIFARWideResNet=dict(depth=10, widen_factor=2),
    CIFARVGG=dict(depth=8),
    CIFARMobileNetV2={},
    CIFARShuffleNetV1={},
    CIFARShuffleNetV2={},
    MobileNetV1=dict(size=64),
    ResNeXt18=dict(size=64),
).items():
    case(kind)(partial(backbone, kind, **options))


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
                selector=dict(type='PPOLevels'),
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
        controller = find_controller(model)
        controller.facts(controller.outcome)
        choice_regrets(model, batch)
        assert image_losses(model, batch).device == GPU
        assert controller.after_step(None)[1].quality.device == GPU
        controller.learn()


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
    } - OF_GRADIENTS
    missing = sorted(ours - CASES.keys())
    assert missing == [], (
        f'no input for {missing}: add EXAMPLES to the test file of a loss or '
        'connector, as tests/examples.py says, or a case here'
    )
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
