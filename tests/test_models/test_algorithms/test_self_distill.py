"""Distillation without a teacher, against the student alone."""

import copy

import pytest
import torch
from torch import nn

from kdvit_mm.registry import MODELS
from tests import tiny
from tests.loss_checks import classification_batch
from tests.resume_checks import read_config, run, run_in_halves
from tests.test_engine.test_training import PLAIN, assert_same, train

SELF = dict(
    cls='byot_stages_resnet18-w0.0625_resnet18-w0.0625_10e_digits-32',
    seg='byot_logits_fcn_r18-w0.125_fcn_r18-w0.125_1k_digits-128',
)


def distiller(**changes) -> dict:
    """The squared distance of two stages' pooled maps."""
    stage = dict(type='ModuleOutputs', source='backbone.layer4.0')
    deep = dict(type='ModuleOutputs', source='backbone.layer4.1')
    return (
        dict(
            type='ConfigurableDistiller',
            student_recorders=dict(stage=stage),
            teacher_recorders=dict(deep=deep),
            distill_losses=dict(loss_l2=dict(type='mmrazor.L2Loss')),
            loss_forward_mappings=dict(
                loss_l2=dict(
                    s_feature=dict(recorder='stage', from_student=True),
                    t_feature=dict(recorder='deep', from_student=False),
                )
            ),
        )
        | changes
    )


def build(**changes):
    torch.manual_seed(0)
    config = dict(
        _scope_='kdvit_mm',
        type='SelfDistill',
        architecture=tiny.resnet(),
        distiller=distiller(),
    )
    model = MODELS.build(config | changes)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # A residual block is the identity at first.
            nn.init.ones_(module.weight)
    model.train()
    return model


def data(model):
    return model.data_preprocessor(classification_batch(), True)


def test_the_teaching_side_has_no_gradient_with_any_loss():
    """mmrazor's L2Loss detaches nothing itself."""
    model = build()
    for _ in range(2):  # records are copied in the first forward alone
        model.zero_grad()
        losses = model(**data(model), mode='loss')
        losses['distill.loss_l2'].backward()
        layer = model.student.backbone.layer4
        assert layer[0].bn2.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in layer[1].parameters())


def test_equals_the_loss_of_both_stages():
    model = build()
    kept = {}
    for index in (0, 1):
        model.student.backbone.layer4[index].register_forward_hook(
            lambda module, args, out, index=index: kept.update({index: out})
        )
    losses = model(**data(model), mode='loss')
    loss = copy.deepcopy(model.distiller.distill_losses.loss_l2)
    expected = loss(kept[0], kept[1].detach())
    torch.testing.assert_close(losses['distill.loss_l2'], expected)
    assert losses.keys() == {'student.loss', 'distill.loss_l2'}


def test_without_the_student_s_loss_and_when_stopped():
    model = build(calculate_student_loss=False)
    assert model(**data(model), mode='loss').keys() == {'distill.loss_l2'}
    model = build()
    model.distillation_stopped = True
    assert model(**data(model), mode='loss').keys() == {'student.loss'}


def test_a_failing_loss_is_explained():
    mapping = dict(
        loss_kd=dict(
            preds_S=dict(recorder='stage', from_student=True),
            preds_T=dict(recorder='deep', from_student=False),
        )
    )
    model = build(
        distiller=distiller(
            student_recorders=dict(
                stage=dict(type='ModuleOutputs', source='backbone.layer3')
            ),
            distill_losses=dict(loss_kd=dict(type='FeatureL2Loss')),
            loss_forward_mappings=mapping,
        )
    )
    with pytest.raises(ValueError, match=r'loss_kd.*Add connectors'):
        model(**data(model), mode='loss')


def test_deliveries_are_refused():
    deliveries = dict(distill_deliveries=dict(a=dict(type='MethodOutputs')))
    with pytest.raises(ValueError, match=r'distill_deliveries.*Remove it'):
        build(distiller=distiller(**deliveries))


def test_mmrazor_s_own_keeps_its_name():
    assert MODELS.get('mmrazor.SelfDistill').__module__.startswith('mmrazor')
    assert MODELS.get('SelfDistill').__module__.startswith('kdvit_mm')
    assert MODELS.get('kdvit_mm.SelfDistill') is MODELS.get('SelfDistill')


@pytest.mark.parametrize('task', SELF)
def test_weight_zero_trains_the_student_as_if_alone(task, digits, tmp_path):
    alone = train(read_config(PLAIN[task], digits, tmp_path / 'alone', 2))
    cfg = read_config(SELF[task], digits, tmp_path / 'zero', 2)
    for loss in cfg.model.distiller.distill_losses.values():
        loss.loss_weight = 0.0
    assert_same(alone, train(cfg))


@pytest.mark.parametrize('task', SELF)
def test_resumed_training_equals_training_straight(task, digits, tmp_path):
    def config(name):
        return lambda: read_config(SELF[task], digits, tmp_path / name, 2)

    straight = run(config('straight')()).model.state_dict()
    assert_same(straight, run_in_halves(config('halves')).model.state_dict())
