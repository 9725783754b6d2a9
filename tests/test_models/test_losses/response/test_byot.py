import copy

import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.response.byot import BYOTLoss
from tests import tiny
from tests.examples import Example, maps
from tests.loss_checks import classification_batch

CHANNELS, FEATURES, CLASSES = 4, 16, 5
OPTIONS = dict(
    in_channels=CHANNELS,
    out_channels=FEATURES,
    num_classes=CLASSES,
    stride=2,
)


def inputs() -> dict:
    torch.manual_seed(1)
    return dict(
        preds_S=maps(3, CHANNELS, 8, 8),
        preds_T=torch.randn(3, CLASSES),
        features_T=torch.randn(3, FEATURES),
        gt_labels=torch.tensor([0, 4, 2]),
    )


EXAMPLES = [Example(dict(type='BYOTLoss', **OPTIONS), inputs)]


def make_loss(**changes) -> BYOTLoss:
    torch.manual_seed(0)
    return BYOTLoss(**OPTIONS | changes).double()


def doubled() -> dict:
    return {
        key: value.detach().double().requires_grad_(key == 'preds_S')
        if value.is_floating_point()
        else value
        for key, value in inputs().items()
    }


def slow_loss(loss: BYOTLoss, given: dict, alpha, tau, weight):
    """The paper's three terms, each on its own, with plain functions."""
    x = given['preds_S']
    layers = [*loss.branch]
    for conv, norm in (layers[0:2], layers[3:5], layers[6:8]):
        size = conv.weight.size(2)
        x = F.conv2d(x, conv.weight, stride=size)
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = x.var((0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / (variance + norm.eps).sqrt()
        x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    features = x.mean((2, 3))
    logits = features @ loss.fc.weight.t() + loss.fc.bias
    p_s = (logits / tau).softmax(1)
    p_t = (given['preds_T'] / tau).softmax(1)
    total = 0
    for i, label in enumerate(given['gt_labels']):
        task = -logits[i].log_softmax(0)[label]
        soft = tau**2 * (p_t[i] * (p_t[i] / p_s[i]).log()).sum()
        hint = (features[i] - given['features_T'][i]).pow(2).sum()
        total = total + (1 - alpha) * task + alpha * soft + weight * hint
    return total / len(logits)


@pytest.mark.parametrize(
    ('alpha', 'tau', 'weight'), [(0.3, 3.0, 0.03), (1.0, 1.0, 0.0), (0, 2, 1)]
)
def test_equals_the_formula(alpha, tau, weight):
    loss = make_loss(
        alpha=alpha, tau=tau, feature_weight=weight, loss_weight=2.5
    )
    slow = copy.deepcopy(loss)
    ours, theirs = doubled(), doubled()
    value = loss(**ours)
    expected = 2.5 * slow_loss(slow, theirs, alpha, tau, weight)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(
        ours['preds_S'].grad, theirs['preds_S'].grad, rtol=1e-8, atol=1e-12
    )
    for mine, other in zip(loss.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_the_deepest_stage_gets_no_gradient():
    given = inputs()
    for key in ('preds_T', 'features_T'):
        given[key].requires_grad_()
    make_loss().float()(**given).backward()
    assert given['preds_S'].grad.abs().sum() > 0
    assert given['preds_T'].grad is None
    assert given['features_T'].grad is None


def test_half_precision_is_computed_in_full():
    given = inputs()
    loss = make_loss().float()
    expected = loss(**given)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(**given)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)
    half = {
        key: x.bfloat16() if x.is_floating_point() else x
        for key, x in given.items()
    }
    assert loss(**half).isfinite()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(preds_S=torch.zeros(3, 2, 8, 8)), 'set in_channels'),
        (dict(preds_S=torch.zeros(3, 4)), r'of shape \(N, 4, H, W\)'),
        (
            dict(features_T=torch.zeros(3, 8)),
            r'features_T is \(3, 8\).*"neck"',
        ),
        (dict(preds_T=torch.zeros(3, 7)), 'Their classes differ'),
        (dict(gt_labels=None), 'needs the class of each row'),
    ],
)
def test_wrong_input_is_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        make_loss().float()(**inputs() | changes)


@pytest.mark.parametrize(
    ('option', 'message'),
    [(dict(alpha=1.1), 'alpha is a share'), (dict(tau=0), 'tau')],
)
def test_wrong_options_are_explained(option, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**option)


def test_in_self_distillation():
    """A branch learns, and its features come from a stage of the student."""
    from kdvit_mm.registry import MODELS

    recorders = dict(
        stage=dict(type='ModuleOutputs', source='backbone.layer2'),
        samples=dict(type='ModuleInputs', source=''),
    )
    model = MODELS.build(
        dict(
            type='SelfDistill',
            architecture=tiny.resnet(),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=recorders,
                teacher_recorders=dict(
                    fc=dict(type='ModuleOutputs', source='head.fc'),
                    pooled=dict(type='ModuleOutputs', source='neck'),
                ),
                distill_losses=dict(
                    loss_byot=dict(
                        type='BYOTLoss',
                        in_channels=8,
                        out_channels=32,
                        num_classes=tiny.CLASSES,
                        stride=4,
                    )
                ),
                loss_forward_mappings=dict(
                    loss_byot=dict(
                        preds_S=dict(recorder='stage', from_student=True),
                        preds_T=dict(recorder='fc', from_student=False),
                        features_T=dict(
                            recorder='pooled', from_student=False, data_idx=0
                        ),
                        data_samples=dict(
                            recorder='samples', from_student=True, data_idx=1
                        ),
                    )
                ),
            ),
        )
    )
    model.train()
    batch = classification_batch()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    losses['distill.loss_byot'].backward()
    (loss,) = model.distiller.distill_losses.values()
    assert all(p.grad.abs().sum() > 0 for p in loss.fc.parameters())
    backbone = model.student.backbone
    assert backbone.layer2[0].conv1.weight.grad.abs().sum() > 0
    # Deeper stages and the head teach, and are not drawn to the branch.
    assert all(p.grad is None for p in backbone.layer3.parameters())
    assert all(p.grad is None for p in model.student.head.parameters())
