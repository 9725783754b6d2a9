"""Weights go to the model that they belong to."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner, load_checkpoint
from mmrazor.registry import MODELS as RAZOR_MODELS

from kdvit_mm.models.utils.checkpoint_kind import whose_weights
from kdvit_mm.registry import MODELS
from tests import tiny

Weights = dict[str, torch.Tensor]


def gfl(base: int = 8, seed: int = 1, **changes) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = tiny.gfl(base)
    config.merge(changes)
    model = MODELS.build(config)
    model.init_weights()
    return model


def save(folder, state: Weights, **extra) -> str:
    torch.save(dict(state_dict=state, **extra), folder / 'a.pth')
    return str(folder / 'a.pth')


def prefixed(state: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in state.items()}


def equal(model: torch.nn.Module, state: Weights) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(
        torch.equal(own[key], state[key]) for key in state
    )


@pytest.fixture
def log():
    """Lines of mmengine's current logger."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    handler = Lines()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    'kind', ['LeanTeacherDistill', 'SingleTeacherDistill']
)
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_plain_checkpoint_goes_into_the_student(kind, prefix, tmp_path, log):
    model, student = tiny.build(kind=kind), gfl()
    teacher = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    path = save(tmp_path, prefixed(student.state_dict(), prefix))
    load_checkpoint(model, path)
    assert equal(model.architecture, student.state_dict())
    assert equal(model.teacher, teacher)
    (line,) = [line for line in log if 'loaded into the student' in line]
    count = sum('num_batches' not in key for key in student.state_dict())
    assert line.startswith(f'{count} of {count} weights')
    assert not any('do not match' in line for line in log)


def test_what_does_not_fit_is_left_as_for_the_student_alone(tmp_path, log):
    source = gfl(bbox_head=dict(num_classes=3)).state_dict()
    source['stray.weight'] = torch.ones(1)
    alone, model = gfl(seed=2), tiny.build()
    model.architecture.load_state_dict(alone.state_dict())
    path = save(tmp_path, source)
    load_checkpoint(alone, path, logger='current')
    expected = [line for line in log if 'do not match' in line]
    assert len(expected) == 1 and 'gfl_cls.weight' in expected[0]
    load_checkpoint(model, path, logger='current')
    assert equal(model.architecture, alone.state_dict())
    assert [line for line in log if 'do not match' in line] == 2 * expected
    head = model.architecture.bbox_head.gfl_cls.weight
    assert head.shape[0] == tiny.CLASSES


def test_distillation_checkpoint_is_loaded_as_before(tmp_path, log):
    source, model = tiny.build(), tiny.build()
    source.architecture.load_state_dict(gfl().state_dict())
    path = save(tmp_path, source.state_dict())
    load_checkpoint(model, path)
    assert equal(model, source.state_dict())
    assert not any('weights loaded' in line for line in log)


def test_distillation_checkpoint_goes_into_the_plain_student(tmp_path, log):
    source, student = tiny.build(), gfl()
    path = save(tmp_path, prefixed(source.state_dict(), 'module.'))
    load_checkpoint(student, path, strict=True)
    assert equal(student, source.architecture.state_dict())
    assert any("from a distillation's student" in line for line in log)


def test_teachers_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, gfl(16).state_dict())
    with pytest.raises(ValueError, match='set the key model'):
        load_checkpoint(tiny.build(), path)


@pytest.mark.parametrize(
    'kind', ['LeanTeacherDistill', 'SingleTeacherDistill']
)
def test_checkpoint_of_another_model_is_refused(kind, tmp_path):
    torch.manual_seed(0)
    other = MODELS.build(tiny.resnet()).head.state_dict()
    path = save(tmp_path, prefixed(other, 'other.'))
    with pytest.raises(ValueError, match=r'No weight .* \(GFL\)'):
        load_checkpoint(tiny.build(kind=kind), path)


def test_whose_weights():
    model = tiny.build()
    owners = {
        'algorithm': model.state_dict(),
        'student': gfl().state_dict(),
        'teacher': gfl(16).state_dict(),
        'nobody': {'a': torch.ones(1)},
    }
    for owner, state in owners.items():
        assert whose_weights(model, state) == owner
    # The same network twice: load_from is for the student.
    twins = RAZOR_MODELS.build(tiny.algorithm(teacher=tiny.gfl(8)))
    assert whose_weights(twins, gfl().state_dict()) == 'student'


def test_models_without_a_distillation_load_as_ever(tmp_path, log):
    model = torch.nn.Linear(2, 2)
    path = save(tmp_path, {'other': torch.ones(1)})
    load_checkpoint(model, path, logger='current')
    assert any('do not match' in line for line in log)
    assert not any('weights loaded' in line for line in log)


@pytest.mark.parametrize('distilled', [False, True])
def test_init_cfg_of_the_student(distilled, tmp_path):
    source = tiny.build()
    state = source.state_dict() if distilled else gfl().state_dict()
    path = save(tmp_path, state)
    student = tiny.gfl(8)
    student.init_cfg = dict(type='Pretrained', checkpoint=path)
    torch.manual_seed(0)
    model = MODELS.build(tiny.algorithm(architecture=student))
    model.init_weights()
    expected = source.architecture if distilled else gfl()
    assert equal(model.architecture, expected.state_dict())


def test_runner_loads_model_and_average(tmp_path, log):
    """load_from with EMAHook: both start from the student's checkpoint."""
    path = save(tmp_path, gfl().state_dict(), meta={})
    runner = Runner(
        model=tiny.build(),
        work_dir=str(tmp_path),
        custom_hooks=[dict(type='EMAHook')],
        load_from=path,
        default_scope='mmengine',
        experiment_name='average',
    )
    runner.call_hook('before_run')
    runner.load_or_resume()
    assert equal(runner.model.architecture, gfl().state_dict())
    (hook,) = [h for h in runner.hooks if type(h).__name__ == 'EMAHook']
    average = hook.ema_model.module
    average = getattr(average, 'architecture', average)
    assert equal(average, gfl().state_dict())
