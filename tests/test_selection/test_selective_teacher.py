import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from kdvit_mm.models.utils.random import mixed_seed
from kdvit_mm.registry import TASK_UTILS
from kdvit_mm.selection.image_selectors import Batch, ImageSelector
from tests import tiny
from tests.loss_checks import classification_batch, on_logits
from tests.resume_checks import DISTILLED, read_config, run, run_in_halves
from tests.test_engine.test_training import assert_same
from tests.two_ranks import on_two_ranks

KIND = 'SelectiveTeacherDistill'
IMAGES = 5


@TASK_UTILS.register_module()
class Given(ImageSelector):
    """Images that a test names."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = torch.tensor(weights)

    def choose(self, batch: Batch) -> torch.Tensor:
        assert batch.number == len(self.weights)
        return self.weights


def build(weights: list[float] | None = None, **changes: Any) -> Any:
    if weights is not None:
        changes['selector'] = dict(type='Given', weights=weights)
    return tiny.build(kind=KIND, **changes)


def losses(
    algorithm: Any, images: list[int] | None = None, size: int = 64
) -> dict[str, torch.Tensor]:
    """Losses of some images of a batch, or of all."""
    batch = tiny.detection_batch(IMAGES, size)
    if images is not None:
        batch = {k: [x[n] for n in images] for k, x in batch.items()}
    data = algorithm.data_preprocessor(copy.deepcopy(batch), True)
    out = algorithm(**data, mode='loss')
    return {k: sum(v) if isinstance(v, list) else v for k, v in out.items()}


def distill_losses(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([v for k, v in found.items() if 'distill' in k])


def gradients(algorithm: Any, found: dict[str, torch.Tensor]) -> list:
    algorithm.zero_grad()
    sum(v for k, v in found.items() if 'loss' in k).backward()
    return [
        None if p.grad is None else p.grad.clone()
        for p in algorithm.parameters()
    ]


def seen_by(teacher: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    teacher.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    return seen


def test_all_images_are_the_lean_teacher():
    ours, lean = build([1.0] * IMAGES), tiny.build()
    ours.load_state_dict(lean.state_dict())
    for _ in range(2):
        found, expected = losses(ours), losses(lean)
        assert found.pop('teacher.asked') == 1
        assert found.keys() == expected.keys()
        for key in expected:
            assert torch.equal(found[key], expected[key]), key
        for one, other in zip(
            gradients(ours, found), gradients(lean, expected), strict=True
        ):
            assert torch.equal(one, other)


def test_the_teacher_sees_the_chosen_images_alone():
    ours, lean = build([0, 1.0, 0, 1.0, 0]), tiny.build()
    ours.load_state_dict(lean.state_dict())
    # The student's batch norms see other images with two of them.
    ours.student.eval()
    lean.student.eval()
    seen, all_seen = seen_by(ours.teacher), seen_by(lean.teacher)
    found = losses(ours)
    expected = distill_losses(losses(lean, [1, 3]))
    assert len(seen) == 1 and torch.equal(seen[0], all_seen[0])
    assert found['teacher.asked'] == pytest.approx(0.4)
    torch.testing.assert_close(distill_losses(found), 0.4 * expected)


def test_weights_multiply_the_images_losses():
    weights = [2.0, 0, 1.0, 0.5, 2.0]
    ours, lean = build(weights), tiny.build()
    ours.load_state_dict(lean.state_dict())
    ours.student.eval()
    lean.student.eval()
    seen = seen_by(ours.teacher)
    expected = sum(
        weight / IMAGES * distill_losses(losses(lean, [n]))
        for n, weight in enumerate(weights)
        if weight
    )
    found = distill_losses(losses(ours))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert [len(x) for x in seen] == [4]


def test_no_image_is_the_student_alone():
    ours, lean = build([0.0] * IMAGES), tiny.build()
    ours.load_state_dict(lean.state_dict())
    lean.distillation_stopped = True
    seen = seen_by(ours.teacher)
    found, expected = losses(ours), losses(lean)
    assert found.pop('teacher.asked') == 0
    assert found.keys() == expected.keys() and not seen
    for one, other in zip(
        gradients(ours, found), gradients(lean, expected), strict=True
    ):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize(
    'options',
    [
        dict(fold_batch_norm=True),
        dict(channels_last=True),
        dict(inference_mode=True),
        dict(autocast_dtype='bfloat16'),
        dict(teacher_input=dict(own_preprocessor=True)),
        dict(cache=dict(dtype='float32')),
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_lean_teacher(options, tmp_path):
    if 'cache' in options:
        options = dict(cache=dict(dir=str(tmp_path), **options['cache']))
    ours = build([0, 1.0, 0, 1.0, 1.0], **options)
    lean = tiny.build(**options)
    for algorithm in ours, lean:
        algorithm.load_state_dict(tiny.build(seed=1).state_dict())
        algorithm.teacher.load_state_dict(
            tiny.build(seed=2).teacher.state_dict()
        )
        algorithm.student.eval()
    expected = 0.6 * distill_losses(losses(lean, [1, 3, 4]))
    # Twice: the second time all of them are in the cache.
    for _ in range(2):
        found = losses(ours)
        torch.testing.assert_close(
            distill_losses(found), expected, rtol=1e-3, atol=1e-6
        )
    if 'cache' in options:
        assert found['teacher.cache_hits'] == 1


def test_importance_weights_keep_the_mean_gradient():
    """Over many draws it is that of full distillation."""
    rate, draws = 0.4, 200
    ours, lean = (
        tiny.build(
            kind=KIND, selector=dict(type='RandomImages', rate=rate, seed=0)
        ),
        tiny.build(),
    )
    ours.load_state_dict(lean.state_dict())
    ours.student.eval()
    lean.student.eval()

    def at_neck(algorithm: Any, found: dict) -> torch.Tensor:
        weight = algorithm.student.neck.fpn_convs[0].conv.weight
        total = distill_losses(found).sum() if has_any(found) else None
        if total is None:
            return torch.zeros_like(weight)
        return torch.autograd.grad(total, weight)[0]

    def has_any(found: dict) -> bool:
        return any('distill' in key for key in found)

    expected = at_neck(lean, losses(lean))
    found = torch.stack([at_neck(ours, losses(ours)) for _ in range(draws)])
    # Along the gradient of full distillation, whose length is then 1.
    along = (found * expected).sum((1, 2, 3, 4)) / expected.square().sum()
    error = along.std() / draws**0.5
    assert error < 0.06
    assert along.mean() == pytest.approx(1, abs=3 * float(error))


def batch(step: int = 0, progress: float = 0.0, number: int = 8, **records):
    return Batch(number, step, progress, records)


def select(**config: Any) -> ImageSelector:
    return TASK_UTILS.build(dict(config, _scope_='kdvit_mm'))


def test_every_nth_step():
    selector = select(type='EveryNthStep', interval=3)
    sums = [float(selector.choose(batch(step)).sum()) for step in range(7)]
    assert sums == [8, 0, 0, 8, 0, 0, 8]


def test_part_of_the_run():
    selector = select(type='PartOfRun', begin=0.25, end=0.75)
    chosen = [
        float(selector.choose(batch(progress=step / 8)).mean())
        for step in range(8)
    ]
    assert chosen == [0, 0, 1, 1, 1, 1, 0, 0]
    assert select(type='PartOfRun').choose(batch(progress=0.999)).all()


@pytest.mark.parametrize(
    ('rate', 'corrected', 'weight'),
    [(0.5, True, 2), (0.1, True, 5), (0.5, False, 1), (1.0, True, 1)],
)
def test_random_images(rate, corrected, weight):
    selector = select(
        type='RandomImages', rate=rate, importance_weights=corrected, seed=3
    )
    drawn = torch.stack(
        [selector.choose(batch(step, number=100)) for step in range(50)]
    )
    assert drawn.unique().tolist() == ([0, weight] if rate < 1 else [weight])
    share = float((drawn > 0).float().mean())
    assert abs(share - rate) <= 4 * (rate * (1 - rate) / 5000) ** 0.5
    # The same again in the same step, others in another.
    again = selector.choose(batch(7, number=100))
    assert torch.equal(again, drawn[7])
    if rate < 1:
        assert not torch.equal(again, drawn[8])


def test_ranks_draw_other_images(monkeypatch):
    name = 'kdvit_mm.selection.image_selectors.get_rank'
    selector = select(type='RandomImages', rate=0.5, seed=3)
    chosen = []
    for rank in range(2):
        monkeypatch.setattr(name, lambda rank=rank: rank)
        chosen.append(selector.choose(batch(number=64)))
    assert not torch.equal(*chosen)
    assert mixed_seed(3, 0, 0) != mixed_seed(3, 1, 0)


def test_uncertain_images():
    logits = torch.tensor([[9.0, 0, 0], [1, 1, 1], [2, 0, 0], [3, 0, 0]])
    selector = select(type='UncertainImages', rate=0.5, recorder='fc')
    chosen = selector.choose(batch(number=4, fc=[logits]))
    assert chosen.tolist() == [0, 1, 1, 0]
    # Rounded up; a mean over positions and over records.
    maps = logits[..., None, None].repeat(1, 1, 2, 2)
    selector = select(type='UncertainImages', rate=0.3, recorder='fc')
    chosen = selector.choose(batch(number=4, fc=[maps, maps[:, :, :1]]))
    assert chosen.tolist() == [0, 1, 1, 0]


def test_uncertain_images_of_classes_apart():
    """The entropy is highest at a probability of one half."""
    logits = torch.tensor([[5.0, 5, 5], [0, 0, 0], [-9, -9, -9], [1, -1, 0]])
    selector = select(
        type='UncertainImages', rate=0.5, recorder='cls', use_sigmoid=True
    )
    chosen = selector.choose(batch(number=4, cls=[logits]))
    assert chosen.tolist() == [0, 1, 0, 1]
    p = logits.double().sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1)
    assert entropy.argsort(descending=True)[:2].tolist() == [1, 3]


def test_a_detectors_uncertainty_decides():
    config = tiny.distiller()
    config.student_recorders.cls = dict(
        type='ModuleOutputs', source='bbox_head.gfl_cls'
    )
    algorithm = tiny.build(
        kind=KIND,
        distiller=config,
        selector=dict(
            type='UncertainImages',
            rate=0.4,
            recorder='cls',
            use_sigmoid=True,
        ),
    )
    seen = seen_by(algorithm.teacher)
    assert losses(algorithm)['teacher.asked'] == pytest.approx(0.4)
    assert [len(x) for x in seen] == [2]


def classifiers(kind: str, loss: dict, **changes: Any) -> Any:
    return tiny.build(
        kind=kind,
        architecture=tiny.resnet(4),
        teacher=tiny.resnet(8),
        distiller=dict(type='ConfigurableDistiller', **on_logits(loss)),
        **changes,
    )


def test_labels_of_the_chosen_images():
    """A loss that reads ground truth gets that of its images."""
    loss = dict(type='WSLDLoss')
    chosen = dict(type='Given', weights=[0, 1.0, 0, 1.0])
    ours = classifiers(KIND, loss, selector=chosen)
    lean = classifiers('LeanTeacherDistill', loss)
    ours.load_state_dict(lean.state_dict())
    found = []
    for algorithm, images in (ours, [0, 1, 2, 3]), (lean, [1, 3]):
        algorithm.student.eval()
        batch = classification_batch()
        batch = {k: [x[n] for n in images] for k, x in batch.items()}
        data = algorithm.data_preprocessor(batch, True)
        found.append(algorithm(**data, mode='loss')['distill.loss_kd'])
    torch.testing.assert_close(found[0], found[1] / 2)


# In a training


def selective(task: str, data: Path, work_dir: Path, **selector: Any) -> Any:
    cfg = read_config(DISTILLED[task], data, work_dir, 2)
    cfg.model.type = KIND
    cfg.model.selector = selector
    cfg.custom_hooks.append(dict(type='CountAsked'))
    return cfg


@HOOKS.register_module()
class CountAsked(Hook):
    """Notes how many images of each step the teacher has seen."""

    shares: ClassVar[list[float]] = []

    def before_train(self, runner: Runner) -> None:
        self.shares.clear()

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.shares.append(round(float(outputs['teacher.asked']), 3))


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_a_resumed_training_asks_as_one_that_runs_through(
    task, digits, tmp_path
):
    def config(name: str) -> Any:
        return selective(
            task, digits, tmp_path / name, type='RandomImages', rate=0.5
        )

    straight = run(config('straight'))
    assert 0 < sum(CountAsked.shares) / len(CountAsked.shares) < 1
    halves = run_in_halves(lambda: config('halves'))
    assert_same(straight.model.state_dict(), halves.model.state_dict())


def test_a_part_of_the_run_is_measured_in_iterations(digits, tmp_path):
    run(selective('cls', digits, tmp_path, type='PartOfRun', end=0.25))
    steps = len(CountAsked.shares)
    assert CountAsked.shares == [
        float(step < steps / 4) for step in range(steps)
    ]


def test_ranks_may_choose_differing_numbers_of_images(digits, tmp_path):
    """The student learns from both; nobody waits for the other."""
    cfg = selective(
        'det', digits, tmp_path / 'two', type='RandomImages', rate=0.2
    )
    cfg.custom_hooks.pop()
    one, other = on_two_ranks(tmp_path, [cfg])
    # Running statistics are each rank's: of the images that it saw.
    students = [
        {
            name: value
            for name, value in rank[0]['student'].items()
            if 'running' not in name
        }
        for rank in (one, other)
    ]
    assert_same(*students)


# What cannot be


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='EveryNthStep', interval=0), 'interval=0'),
        (dict(type='PartOfRun', begin=0.5, end=0.5), 'begin=0.5 and end=0.5'),
        (dict(type='PartOfRun', end=1.5), 'end=1.5'),
        (dict(type='RandomImages', rate=0), 'rate=0 is a share'),
        (dict(type='RandomImages', rate=1.2), 'rate=1.2 is a share'),
        (
            dict(type='UncertainImages', rate=-1, recorder='fc'),
            'rate=-1 is a share',
        ),
    ],
    ids=lambda x: str(x),
)
def test_wrong_selectors_say_so(config, message):
    with pytest.raises(ValueError, match=message):
        select(**config)


def test_wrong_distillers_say_so():
    chosen = [1.0] * IMAGES
    method = 'mmdet.models.dense_heads.gfl_head.GFLHead.get_targets'
    config = tiny.distiller()
    config.distill_deliveries = dict(
        targets=dict(type='MethodOutputs', method_path=method, max_keep_data=1)
    )
    with pytest.raises(ValueError, match='Remove them'):
        build(chosen, distiller=config)
    with pytest.raises(ValueError, match='Leave it out'):
        build(chosen, calculate_student_loss=False)
    config = tiny.distiller(levels=0)
    config.distill_losses.loss_0 = dict(
        type='SelectedLevelsLoss',
        num_levels=5,
        selector=dict(type='AllLevels'),
        loss=dict(type='CWDLoss'),
    )
    with pytest.raises(ValueError, match=r'loss_0 \(SelectedLevelsLoss\)'):
        build(chosen, distiller=config)
    with pytest.raises(TypeError, match='no config key "selectr"'):
        build(chosen, selectr=1)


def test_a_loss_that_compares_images_needs_whole_batches():
    loss = dict(type='RKDLoss')
    with pytest.raises(ValueError, match='EveryNthStep'):
        classifiers(KIND, loss, selector=dict(type='RandomImages', rate=1))
    classifiers(KIND, loss, selector=dict(type='EveryNthStep', interval=2))


def test_a_record_without_rows_of_images_says_so():
    ours = build(
        [1.0, 0, 0, 1.0, 1.0],
        architecture=tiny.faster_rcnn(8),
        teacher=tiny.faster_rcnn(16),
        distiller=tiny.distiller('roi_head.bbox_head.fc_cls', 0),
    )
    with pytest.raises(ValueError, match=r'recorder "rec".*not one row per'):
        losses(ours, size=128)


def test_a_missing_recorder_says_so():
    ours = tiny.build(
        kind=KIND,
        selector=dict(type='UncertainImages', rate=0.5, recorder='logits'),
    )
    with pytest.raises(ValueError, match='no "logits", only rec'):
        losses(ours)
