"""What is said of distill losses that do nothing or too much."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import DataLoader

from kdvit_mm.engine.hooks import distill_watch_hook
from kdvit_mm.registry import MODELS
from tests.test_engine.test_training import assert_same
from tests.tiny import (
    CLASSES,
    algorithm,
    detection_batch,
    distiller,
    gfl,
    resnet,
)


@MODELS.register_module(force=True)
class SameValueLoss(nn.Module):
    """Always the same value, but with a gradient."""

    def __init__(self, value: float, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.value, self.loss_weight = value, loss_weight

    def forward(
        self, preds_S: torch.Tensor, preds_T: torch.Tensor
    ) -> torch.Tensor:
        nothing = (preds_S - preds_S.detach()).sum()
        return self.loss_weight * (self.value + nothing)


@MODELS.register_module(force=True)
class DetachedLoss(nn.Module):
    """Has the gradient of nothing."""

    def forward(
        self, preds_S: torch.Tensor, preds_T: torch.Tensor
    ) -> torch.Tensor:
        return (preds_S.detach() - preds_T).square().mean()


class StopAt(Hook):
    """Ends a run after some iterations."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.iterations:  # before the watch hook
            raise KeyboardInterrupt


class Messages(logging.Handler):
    """Keeps what the hook says."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if Path(record.pathname).name == 'distill_watch_hook.py':
            self.found.append(record.getMessage())


def run(
    model: dict,
    samples: list[dict],
    work_dir: Path,
    iterations: int,
    watched: bool = True,
) -> tuple[list[str], nn.Module]:
    """Trains for some iterations; returns what was said, and the student."""
    watching = [dict(type='kdvit_mm.DistillWatchHook')] if watched else []
    runner = Runner(
        model=copy.deepcopy(model),
        work_dir=str(work_dir),
        # Four iterations an epoch.
        train_dataloader=DataLoader(samples, 2, collate_fn=pseudo_collate),
        train_cfg=dict(by_epoch=True, max_epochs=1000),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=1)
        ),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[*watching, StopAt(iterations)],
        randomness=dict(seed=0),
        default_scope='kdvit_mm',
        experiment_name=f'{work_dir}{watched}',
    )
    messages = Messages()
    runner.logger.addHandler(messages)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    return messages.found, getattr(runner.model, 'student', runner.model)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Less patience than the hook has outside of tests."""
    monkeypatch.setattr(distill_watch_hook, 'WINDOW', 8)
    monkeypatch.setattr(distill_watch_hook, 'FIRST_PROBES', (0, 2, 4))


def classifiers(**loss) -> dict:
    config = algorithm(architecture=resnet(4), teacher=resnet(8))
    config.distiller = distiller('head.fc', 0)
    config.distiller.distill_losses.loss_0 = dict(loss)
    return config


def crops() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        dict(
            inputs=torch.randint(256, (3, 32, 32), generator=generator),
            data_samples=DataSample().set_gt_label(label),
        )
        for label in range(8)
    ]


def images() -> list[dict]:
    """Of 64 px: one position at strides 64 and 128."""
    batch = detection_batch(8, 64)
    return [
        dict(inputs=image, data_samples=sample)
        for image, sample in zip(
            batch['inputs'], batch['data_samples'], strict=True
        )
    ]


@pytest.mark.parametrize(
    ('loss', 'iterations', 'said'),
    [
        (
            dict(type='SameValueLoss', value=0.0),
            9,
            'has been exactly 0 for 8 iterations',
        ),
        (
            dict(type='SameValueLoss', value=2.5),
            20,
            'has been 2.5 for 8 iterations',
        ),
        (
            dict(type='DetachedLoss'),
            9,
            'has a gradient that does not reach the student',
        ),
        (
            dict(type='mmrazor.KLDivergence', loss_weight=1e6),
            9,
            'dominates the task: its gradient at the student is',
        ),
    ],
)
def test_says_once_what_is_wrong(loss, iterations, said, tmp_path):
    found, _ = run(classifiers(**loss), crops(), tmp_path, iterations)
    assert len(found) == 1 and found[0].startswith(f'distill.loss_0 {said}')
    assert 'model.distiller.distill_losses.loss_0' in found[0]
    if 'dominates' in said:
        weight = float(found[0].partition('loss_weight: at ')[2].split()[0])
        ratio = float(found[0].partition('student is ')[2].split()[0])
        assert ratio > 100
        assert weight == pytest.approx(1e6 / ratio, rel=0.1)


def test_patience(monkeypatch, tmp_path):
    """A loss must change within 50 iterations."""
    monkeypatch.undo()
    model = classifiers(type='SameValueLoss', value=0.0)
    (found,) = run(model, crops(), tmp_path, 51)[0]
    assert 'has been exactly 0 for 50 iterations' in found


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='mmrazor.KLDivergence'),
        dict(type='mmrazor.KLDivergence', loss_weight=0),
        dict(type='kdvit_mm.DISTLoss', loss_weight=0),
        dict(type='SameValueLoss', value=2.5, loss_weight=0),
    ],
)
def test_says_nothing_of_healthy_losses_and_of_weight_0(loss, tmp_path):
    assert run(classifiers(**loss), crops(), tmp_path, 9)[0] == []


def test_map_of_one_position_has_no_gradient_in_cwd(tmp_path):
    model = algorithm(teacher=gfl(8))
    found, _ = run(model, images(), tmp_path, 9)
    assert [text.split()[0] for text in found] == [
        'distill.loss_3',
        'distill.loss_4',
    ]
    assert all('gradient that does not reach' in text for text in found)


def test_frozen_record_gets_no_gradient(tmp_path):
    """The connector is trained, but the student is not."""
    model = algorithm(distiller=distiller('backbone.layer1', 0))
    model.architecture.backbone.frozen_stages = 1
    model.distiller.connectors = dict(
        wider=dict(type='ConvModuleConnector', in_channel=8, out_channel=16)
    )
    mapping = model.distiller.loss_forward_mappings.loss_0
    mapping.preds_S.connector = 'wider'
    found, _ = run(model, images(), tmp_path, 9)
    assert len(found) == 1 and 'of a frozen module' in found[0]


@pytest.mark.parametrize('weight', [0, 1])
def test_training_is_the_same_with_it(weight, tmp_path):
    """With dropout, and probes at iterations 0, 2 and 4."""
    model = classifiers(type='mmrazor.KLDivergence', loss_weight=weight)
    model.architecture.head = dict(
        type='StackedLinearClsHead',
        num_classes=CLASSES,
        in_channels=32,
        mid_channels=[16],
        dropout_rate=0.5,
    )
    record = model.distiller.student_recorders
    record.rec = dict(type='ModuleOutputs', source='head.layers.1.fc')
    first, second = (
        run(model, crops(), tmp_path, 6, watched)[1].state_dict()
        for watched in (True, False)
    )
    assert_same(first, second)
    assert any(value.abs().sum() for value in first.values())


def test_plain_models_and_chosen_levels(tmp_path):
    assert run(resnet(4), crops(), tmp_path / 'plain', 2)[0] == []
    model = algorithm(teacher=gfl(8))
    recorder = dict(type='FPNLevelSelection', source='neck')
    maps = dict(recorder='rec')
    model.distiller = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(rec=recorder),
        teacher_recorders=dict(rec=recorder),
        distill_losses=dict(
            loss_0=dict(
                type='SelectedLevelsLoss',
                selector=dict(type='AllLevels'),
                loss=dict(type='CWDLoss'),
                num_levels=5,
            )
        ),
        loss_forward_mappings=dict(
            loss_0=dict(
                preds_S=dict(maps, from_student=True),
                preds_T=dict(maps, from_student=False),
            )
        ),
    )
    found, _ = run(model, images(), tmp_path / 'levels', 2)
    assert found == [
        'DistillWatchHook watches the values of the distill losses, but not '
        'their gradients: SelectedLevelsLoss measures them itself.'
    ]


def test_goes_on_where_gradients_cannot_be_measured(tmp_path):
    """Reentrant checkpoints forbid it; values are watched all the same."""
    model = algorithm(teacher=gfl(8))
    model.architecture.backbone.with_cp = True
    found, _ = run(model, images(), tmp_path, 9)
    assert 'but not their gradients' in found[0]
    assert [text.split()[:5] for text in found[1:]] == [
        [f'distill.loss_{i}', 'has', 'been', 'exactly', '0'] for i in (3, 4)
    ]
