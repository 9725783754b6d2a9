"""One optimiser for each student, and one for all."""

import copy

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import builder
from torch import nn

from kdvit_mm.engine.optim import EachStudentConstructor, JointOptimWrapper
from kdvit_mm.engine.student_view import build_optim_wrapper
from kdvit_mm.models.utils.students import students_of
from tests.test_models.test_algorithms.test_mutual_distill import build, data

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)


def wrapper_of(model, **cfg):
    cfg = dict(type='OptimWrapper', optimizer=SGD) | cfg
    return build_optim_wrapper(builder.build_optim_wrapper, model, cfg)


def each(model, **cfg):
    return wrapper_of(
        model, constructor='kdvit_mm.EachStudentConstructor', **cfg
    )


def train(model, wrapper, steps=3):
    for _ in range(steps):
        model.train_step(classification(), wrapper)
    return model.state_dict()


def classification():
    from tests.loss_checks import classification_batch

    return classification_batch()


def assert_same(first, second):
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_one_for_each_and_one_for_all_train_alike():
    one, several = build(), build()
    joint = each(several)
    assert isinstance(joint, JointOptimWrapper)
    assert [*joint.keys()] == ['student', 'wide', 'twin']
    assert_same(train(one, wrapper_of(one)), train(several, joint))


def test_each_clips_its_own_gradients():
    model = build()
    clip = dict(max_norm=0.01)
    joint = each(model, clip_grad=clip)
    reference = copy.deepcopy(model)
    train(model, joint, steps=1)
    total, _ = reference.parse_losses(
        reference(**data(reference), mode='loss')
    )
    total.backward()
    for student in students_of(reference).values():
        nn.utils.clip_grad_norm_(student.parameters(), 0.01)
        torch.optim.SGD(
            student.parameters(),
            **{k: v for k, v in SGD.items() if k != 'type'},
        ).step()
    for mine, other in zip(
        model.parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_gradients_are_accumulated():
    """Two steps of half a batch's loss each: batch norms see both alike."""
    model, twice = build(), build()
    plain, joint = each(model), each(twice, accumulative_counts=2)
    before = copy.deepcopy(twice.state_dict())
    twice.train_step(classification(), joint)
    for name, parameter in twice.named_parameters():
        assert torch.equal(before[name], parameter)
    twice.train_step(classification(), joint)
    model.train_step(classification(), plain)
    for mine, other in zip(
        model.parameters(), twice.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_configs_by_student_and_state():
    model = build()
    cfg = {
        'student': dict(optimizer=SGD),
        'wide': dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
            paramwise_cfg=dict(bias_decay_mult=0.0),
        ),
        'twin': dict(optimizer=SGD | dict(lr=0.2)),
    }
    cfg = {k: dict(type='OptimWrapper', **v) for k, v in cfg.items()}
    joint = build_optim_wrapper(
        builder.build_optim_wrapper,
        model,
        dict(constructor='kdvit_mm.EachStudentConstructor', **cfg),
    )
    kinds = [type(w.optimizer).__name__ for w in joint.values()]
    assert kinds == ['SGD', 'AdamW', 'SGD']
    assert joint['twin'].param_groups[0]['lr'] == 0.2
    assert len(joint['wide'].param_groups) > 1
    train(model, joint, steps=1)
    state = copy.deepcopy(joint.state_dict())
    fresh = EachStudentConstructor(cfg)(model)
    fresh.load_state_dict(copy.deepcopy(state))
    assert fresh.state_dict()['twin']['state'].keys() == (
        state['twin']['state'].keys()
    )
    with pytest.raises(ValueError, match='one for each of student, wide, twi'):
        EachStudentConstructor({'student': cfg['student']})(model)


def test_what_cannot_step_together_is_refused():
    model = build()
    plain = OptimWrapper(torch.optim.SGD(model.student.parameters(), 0.1))
    other = OptimWrapper(
        torch.optim.SGD(model.peers.wide.parameters(), 0.1),
        accumulative_counts=2,
    )
    with pytest.raises(ValueError, match=r'accumulative_counts are .*equal'):
        JointOptimWrapper(student=plain, wide=other)


def test_one_loss_scale_for_all(monkeypatch):
    """A scaler of 2 ** 10, on the CPU, changes no step."""
    model, other = build(), build()
    plain = each(model)
    monkeypatch.setattr(
        'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available',
        lambda: True,
        raising=False,
    )
    wrappers = {
        name: AmpOptimWrapper.__new__(AmpOptimWrapper)
        for name in students_of(other)
    }
    for name, student in students_of(other).items():
        OptimWrapper.__init__(
            wrappers[name],
            optimizer=torch.optim.SGD(
                student.parameters(),
                **{k: v for k, v in SGD.items() if k != 'type'},
            ),
        )
        wrappers[name].loss_scaler = torch.amp.GradScaler(
            'cpu', init_scale=2.0**10
        )
        wrappers[name]._scale_update_param = None
        wrappers[name].cast_dtype = torch.bfloat16
    joint = JointOptimWrapper(**wrappers)
    scalers = {id(w.loss_scaler) for w in joint.values()}
    assert len(scalers) == 1
    for wrapper, current in ((plain, model), (joint, other)):
        total, _ = current.parse_losses(current(**data(current), mode='loss'))
        wrapper.update_params(total)
    for mine, theirs in zip(
        model.parameters(), other.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_groups_of_one_optimiser_are_those_of_each_student():
    model = build()
    cfg = dict(
        type='OptimWrapper',
        optimizer=SGD,
        paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=0.1)}),
    )
    groups = wrapper_of(
        model, paramwise_cfg=cfg['paramwise_cfg']
    ).optimizer.param_groups
    alone = [
        group
        for student in students_of(model).values()
        for group in builder.build_optim_wrapper(
            student, cfg
        ).optimizer.param_groups
    ]
    assert [g['lr'] for g in groups] == [g['lr'] for g in alone]
    for ours, theirs in zip(groups, alone, strict=True):
        assert all(
            a is b
            for a, b in zip(ours['params'], theirs['params'], strict=True)
        )
    with pytest.raises(ValueError, match='EachStudentConstructor'):
        wrapper_of(
            model,
            constructor='mmrazor.SeparateOptimWrapperConstructor',
            optimizer=None,
            student=dict(optimizer=SGD),
        )
