"""DOT, by its optimiser and in whole trainings."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import distributed, nn

from kdvit_mm.engine.optim import DOT, DOTAmpOptimWrapper, DOTOptimWrapper
from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.golden import Case, parametrize
from tests.loss_checks import classification_batch, on_logits
from tests.resume_checks import run, run_in_halves
from tests.test_engine.test_training import assert_same, read_config
from tests.two_ranks import on_two_ranks, result

CLS = 'dot-kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32'
VALUES = dict(lr=0.01, momentum=0.9, weight_decay=1e-2)


@parametrize('dot')
def test_equals_official_code(case: Case):
    settings, given = case.settings, case.inputs
    weights = [given[f'p{i}_init'].clone().requires_grad_() for i in range(3)]
    optimiser = DOT(
        weights,
        **{
            key: settings[key]
            for key in ('lr', 'momentum', 'delta', 'dampening', 'weight_decay')
        },
    )
    found = [[w.detach().clone()] for w in weights]
    both, task_only, distill_only = weights
    for step in range(len(given['grad_task0'])):
        both.grad = given['grad_task0'][step]
        task_only.grad = given['grad_task1'][step]
        optimiser.step({
            both: given['grad_kd0'][step],
            task_only: None,
            distill_only: given['grad_kd2'][step],
        })  # fmt: skip
        for path, weight in zip(found, weights, strict=True):
            path.append(weight.detach().clone())
    for i, path in enumerate(found):
        torch.testing.assert_close(
            torch.stack(path), case.outputs[f'p{i}'], rtol=1e-10, atol=1e-13
        )


def detection() -> LeanTeacherDistill:
    """A pair with weights of all kinds: a connector has no task loss."""
    distiller = tiny.distiller()
    distiller.connectors = dict(
        conn=dict(
            type='ConvModuleConnector',
            in_channel=16,
            out_channel=16,
            act_cfg=None,
        )
    )
    distiller.loss_forward_mappings.loss_0.preds_S.connector = 'conn'
    return tiny.build(distiller=distiller)


def classification(**changes: Any) -> LeanTeacherDistill:
    return tiny.build(
        architecture=tiny.resnet(4),
        teacher=tiny.resnet(8),
        distiller=dict(
            type='ConfigurableDistiller',
            **on_logits(dict(type='kdvit_mm.KDLoss', tau=4.0), False),
        ),
        **changes,
    )


def segmentation() -> LeanTeacherDistill:
    return tiny.build(
        architecture=tiny.fcn(8),
        teacher=tiny.fcn(16),
        distiller=tiny.distiller('decode_head.conv_seg', 0),
    )


PAIRS = dict(det=tiny.build, seg=segmentation, cls=classification)


def batches(task: str, number: int = 3) -> list[dict]:
    make = dict(
        det=lambda seed: tiny.detection_batch(2, 64, seed),
        seg=lambda seed: tiny.segmentation_batch(2, 32, seed=seed),
        cls=lambda seed: classification_batch(),
    )[task]
    return [make(seed) for seed in range(number)]


def build(model: nn.Module, **changes: Any) -> DOTOptimWrapper:
    """The wrapper of a config with these changes."""
    cfg: dict[str, Any] = dict(
        type='kdvit_mm.DOTOptimWrapper',
        optimizer=dict(type='kdvit_mm.DOT', delta=0.075, **VALUES),
    )
    return build_optim_wrapper(model, cfg | changes)


def train(model: Any, wrapper: Any, data: list[dict]) -> dict:
    for seed, batch in enumerate(data):
        torch.manual_seed(seed)
        model.train_step(copy.deepcopy(batch), wrapper)
    return {k: v.detach().clone() for k, v in model.named_parameters()}


@pytest.mark.parametrize('task', PAIRS)
@pytest.mark.parametrize(
    'options', [{}, dict(clip_grad=dict(max_norm=0.5)),
                dict(accumulative_counts=2)],
    ids=['plain', 'clipped', 'accumulated'],
)  # fmt: skip
def test_without_delta_it_is_sgd(task, options):
    # In double precision, as BatchNorm enlarges differences.
    model = PAIRS[task]().double()
    start = {k: v.detach().clone() for k, v in model.named_parameters()}
    twin = copy.deepcopy(model)
    data = batches(task, 4)
    ours = train(
        model,
        build(
            model,
            optimizer=dict(type='kdvit_mm.DOT', delta=0.0, **VALUES),
            **copy.deepcopy(options),
        ),
        data,
    )
    sgd = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', **VALUES),
        **copy.deepcopy(options),
    )
    theirs = train(twin, build_optim_wrapper(twin, sgd), data)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-6, atol=1e-8)
    moved = [(ours[name] - start[name]).abs().max() for name in ours]
    assert max(moved) > 1e-3


def test_two_gradients_groups_accumulation_and_clipping():
    """Against an update written out here, on the weights of a detector."""
    model = detection().double()
    twin = copy.deepcopy(model)
    data = batches('det', 4)
    paramwise = dict(
        custom_keys={'backbone': dict(lr_mult=0.1, decay_mult=0.5)},
        norm_decay_mult=0.0,
    )
    wrapper = build(
        model,
        accumulative_counts=2,
        clip_grad=dict(max_norm=1.0),
        paramwise_cfg=paramwise,
    )
    groups = {
        id(p): group for group in wrapper.optimizer.param_groups
        for p in group['params']
    }  # fmt: skip
    values = {
        name: (groups[id(p)]['lr'], groups[id(p)]['weight_decay'])
        for name, p in model.named_parameters()
    }
    assert len({*values.values()}) == 3
    ours = train(model, wrapper, data)

    weights = dict(twin.named_parameters())
    buffers: dict[tuple[str, bool], torch.Tensor] = {}
    for first in range(0, len(data), 2):
        sums: dict[tuple[str, bool], torch.Tensor] = {}
        for batch in data[first : first + 2]:
            losses = twin(**twin.data_preprocessor(batch, True), mode='loss')
            for distills in (False, True):
                total = sum(
                    value.mean() if torch.is_tensor(value)
                    else sum(v.mean() for v in value)
                    for key, value in losses.items()
                    if key.startswith('distill.') == distills and 'loss' in key
                )  # fmt: skip
                grads = torch.autograd.grad(
                    total / 2,
                    [*weights.values()],
                    retain_graph=True,
                    allow_unused=True,
                )
                for name, grad in zip(weights, grads, strict=True):
                    if grad is not None:
                        key = name, distills
                        sums[key] = sums.get(key, 0) + grad
        joint = [
            sum(sums[key] for key in ((n, False), (n, True)) if key in sums)
            for n in weights
        ]
        norm = torch.stack([torch.as_tensor(g).norm() for g in joint]).norm()
        assert norm > 1
        with torch.no_grad():
            for (name, distills), grad in sums.items():
                weight = weights[name]
                lr, decay = values[name]
                grad = grad / norm
                both = (name, not distills) in sums
                momentum = 0.9 + both * (0.075 if distills else -0.075)
                known = (name, distills) in buffers
                if not distills or (not both and known):
                    grad = grad + decay * weight
                if known:
                    grad = momentum * buffers[name, distills] + grad
                buffers[name, distills] = grad
                # The task's move comes first, but its decay is of the weight
                # before both.
                weight -= lr * grad
    kinds = {
        (f'{name}', distills): (name, not distills) in buffers
        for name, distills in buffers
    }
    assert {True, False} == set(kinds.values())
    for name, weight in ours.items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ('optimiser', 'message'),
    [
        (dict(type='AdamW', lr=1e-3), 'is AdamW, which has not'),
        (dict(type='SGD', lr=0.1, momentum=0.9), "type='kdvit_mm.DOT'"),
    ],
)
def test_other_optimisers_are_refused(optimiser, message):
    with pytest.raises(TypeError, match=message):
        build(classification(), optimizer=optimiser)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (dict(momentum=0.0), 'momentum=0.0, but DOT is about two momenta'),
        (dict(delta=0.1), '0.8 for the task and 1 for distillation'),
        (dict(delta=-0.1), '1 for the task'),
        (dict(momentum=0.05), r'Change optim_wrapper\.optimizer\.delta'),
        (dict(lr=-1.0), 'lr=-1.0'),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DOT([nn.Parameter(torch.zeros(2))], **(VALUES | values))


def test_clipping_by_value_is_refused():
    with pytest.raises(ValueError, match='Clip by norm'):
        build(classification(), clip_grad=dict(type='value', clip_value=1.0))


def test_the_plain_wrapper_is_refused_at_the_first_step():
    model = classification()
    wrapper = build(model, type='OptimWrapper')
    with pytest.raises(RuntimeError, match=r'"kdvit_mm\.DOTOptimWrapper"'):
        train(model, wrapper, batches('cls', 1))


def test_models_without_two_kinds_of_losses_are_refused():
    plain = MODELS.build(tiny.resnet(4))
    with pytest.raises(TypeError, match='but got ImageClassifier'):
        train(plain, build(plain), batches('cls', 1))
    model = classification(calculate_student_loss=False)
    with pytest.raises(ValueError, match='calculate_student_loss=False'):
        train(model, build(model), batches('cls', 1))


def test_without_distill_losses_it_is_sgd():
    model = classification()
    twin = copy.deepcopy(model)
    model.distillation_stopped = twin.distillation_stopped = True
    data = batches('cls')
    ours = train(model, build(model), data)
    sgd = dict(type='OptimWrapper', optimizer=dict(type='SGD', **VALUES))
    theirs = train(twin, build_optim_wrapper(twin, sgd), data)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])


@pytest.fixture
def scaled(monkeypatch):
    """Builds a wrapper with a loss scale of 1024, on the CPU."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this PyTorch scales no gradients on the CPU')
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    # It asks for a GPU, which this scaler does not need.
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)

    def build_scaled(model: nn.Module, **changes: Any) -> DOTAmpOptimWrapper:
        wrapper = build(
            model,
            type='kdvit_mm.DOTAmpOptimWrapper',
            dtype='bfloat16',
            **changes,
        )
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
        return wrapper

    return build_scaled


@pytest.mark.parametrize('clips', [False, True])
def test_scaled_losses_make_the_same_step(clips, scaled, monkeypatch):
    model = classification()
    twin = copy.deepcopy(model)
    options = [
        dict(clip_grad=dict(max_norm=0.5)) if clips else {} for _ in range(2)
    ]
    wrapper = scaled(model, **options[0])
    # In full precision the scale, a power of two, changes nothing.
    wrapper.cast_dtype = torch.float32
    monkeypatch.setattr(
        'mmengine.runner.amp.autocast',
        lambda **kwargs: torch.autocast('cpu', enabled=False),
    )
    data = batches('cls')
    assert_same(
        train(model, wrapper, data),
        train(twin, build(twin, **options[1]), data),
    )
    assert wrapper.state_dict()['loss_scaler']['scale'] == 1024


def test_half_precision_trains(scaled):
    model = classification()
    start = {k: v.detach().clone() for k, v in model.named_parameters()}
    end = train(model, scaled(model), batches('cls'))
    assert all(weight.isfinite().all() for weight in end.values())
    name = 'architecture.head.fc.weight'
    assert not torch.equal(start[name], end[name])


@pytest.mark.parametrize('kind', ['student.', 'distill.'])
def test_an_infinite_gradient_of_either_kind_skips_both(kind, scaled):
    model = classification()
    wrapper = scaled(model)
    data = batches('cls', 1)
    before = train(model, wrapper, data)

    def overflow(module: nn.Module, inputs: Any, losses: dict) -> dict:
        return {
            key: value * torch.inf if key.startswith(kind) else value
            for key, value in losses.items()
        }

    handle = model.register_forward_hook(overflow)
    assert_same(before, train(model, wrapper, data))
    assert wrapper.loss_scaler.get_scale() == 512
    handle.remove()
    after = train(model, wrapper, data)
    assert all(weight.isfinite().all() for weight in after.values())
    name = 'architecture.head.fc.weight'
    assert not torch.equal(before[name], after[name])


@pytest.fixture
def one_rank(tmp_path):
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_buffers_are_not_to_be_broadcast(one_rank):
    model = MMDistributedDataParallel(classification(), broadcast_buffers=True)
    wrapper = build(model.module)
    with pytest.raises(ValueError, match='broadcast_buffers=False'):
        train(model, wrapper, batches('cls', 1))


def config(name: str, data: Path, work_dir: Path, steps: int = 2) -> Config:
    cfg = read_config(name, data, work_dir, steps)
    cfg.visualizer.name = str(work_dir)
    return cfg


def test_resumed_training_equals_training_straight(digits, tmp_path):
    straight = result(run(config(CLS, digits, tmp_path / 'straight')))
    halves = result(
        run_in_halves(lambda: config(CLS, digits, tmp_path / 'halves'))
    )
    assert_same(straight['student'], halves['student'])
    for a, b in zip(
        straight['optimiser']['state'].values(),
        halves['optimiser']['state'].values(),
        strict=True,
    ):
        assert_same(a, b)
    names = {
        name for state in straight['optimiser']['state'].values()
        for name in state
    }  # fmt: skip
    assert names == {'task_momentum', 'distill_momentum'}


@pytest.mark.usefixtures('forked')
def test_two_ranks_train_as_one_with_the_joined_batch(digits, tmp_path):
    def make(name: str, batch_size: int, **changes: Any) -> Config:
        cfg = config(CLS, digits, tmp_path / name, 1)
        # Statistics of a batch and augmentation are a rank's own.
        cfg.model.architecture.backbone.norm_eval = True
        cfg.train_dataloader.dataset.pipeline = [
            dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')
        ]  # fmt: skip
        cfg.train_dataloader.batch_size = batch_size
        cfg.optim_wrapper.optimizer.lr = 0.02
        cfg.optim_wrapper.update(changes)
        return cfg

    options = [{}, dict(accumulative_counts=2, clip_grad=dict(max_norm=0.1))]
    alone = [
        result(run(make(f'alone_{i}', 4, **copy.deepcopy(some))))
        for i, some in enumerate(options)
    ]
    first, second = on_two_ranks(
        tmp_path,
        [make(f'two_{i}', 2, **some) for i, some in enumerate(options)],
    )
    for one, other, both in zip(first, second, alone, strict=True):
        assert one['iterations'] == both['iterations'] == 10
        assert_same(one['student'], other['student'])
        for key, weight in both['student'].items():
            torch.testing.assert_close(
                one['student'][key], weight, rtol=1e-3, atol=1e-5
            )
