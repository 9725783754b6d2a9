import pytest
import torch
from mmpretrain.structures import DataSample

from kdvit_mm.models.losses.response.dkd import DKDLoss
from tests import tiny
from tests.examples import Example, pair
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    assert_same,
    classification_batch,
    hard_logits,
    on_hard_logits,
    train_step,
)


def of_labels(device=None):
    labels = torch.zeros(3, dtype=torch.long, device=device)
    return pair(3, 5) | dict(gt_labels=labels)


def of_samples(device=None):
    labels = torch.zeros(3, dtype=torch.long, device=device)
    found = [DataSample().set_gt_label(label) for label in labels]
    return pair(3, 5) | dict(data_samples=found)


EXAMPLES = [
    Example(dict(type='DKDLoss'), of_labels, 'labelled logits'),
    Example(dict(type='DKDLoss', tau=2), of_samples),
    # mmpretrain leaves labels where they are.
    Example(dict(type='DKDLoss'), lambda: of_labels('cpu')),
    Example(dict(type='DKDLoss'), lambda: of_samples('cpu')),
]


@parametrize('dkd')
def test_equals_official_code(case):
    loss = DKDLoss(
        alpha=case.settings['alpha'],
        beta=case.settings['beta'],
        tau=case.settings['temperature'],
    )
    target = case.inputs['target'].long()
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher'], target), case
    )


def slow_dkd(student, teacher, labels, alpha=1.0, beta=1.0, tau=1.0):
    """The paper's formula, row by row."""

    def kl(p, q):
        return (p * (p / q).log()).sum()

    total = 0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        others = torch.arange(len(z_s)) != y
        p_s, p_t = (z_s / tau).exp(), (z_t / tau).exp()
        p_s, p_t = p_s / p_s.sum(), p_t / p_t.sum()
        b_s, b_t = (torch.stack([p[y], p[others].sum()]) for p in (p_s, p_t))
        o_s, o_t = (p[others] / p[others].sum() for p in (p_s, p_t))
        total = total + alpha * kl(b_t, b_s) + beta * kl(o_t, o_s)
    return tau**2 * total / len(student)


@pytest.mark.parametrize('shape', [(4, 6), (1, 3), (5, 2)])
@pytest.mark.parametrize('tau', [1, 4.0])
def test_equals_the_formula(shape, tau):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    labels = torch.randint(shape[1], shape[:1])
    loss = DKDLoss(2.0, 0.5, tau, loss_weight=3.0)
    assert_same(
        lambda x: loss(x, teacher, labels),
        lambda x: 3 * slow_dkd(x, teacher, labels, 2.0, 0.5, tau),
        student,
    )


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, labels = hard_logits(dtype, shape, transposed)
    assert_robust(lambda s, t: DKDLoss()(s, t, labels), student, teacher)


def test_confident_student():
    """Where 1 - p underflows, its logarithm is still right."""
    student = torch.tensor([[300.0, 0, 0]], requires_grad=True)
    teacher = torch.zeros(1, 3)
    loss = DKDLoss(beta=0.0)(student, teacher, torch.tensor([0]))
    loss.backward()
    expected = slow_dkd(
        student.detach().double(), teacher.double(), [0], beta=0.0
    )
    torch.testing.assert_close(
        loss.detach().double(), expected, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        student.grad, torch.tensor([[2 / 3, -1 / 3, -1 / 3]])
    )


def test_no_proposals():
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = DKDLoss()(logits, torch.zeros(0, 4), torch.zeros(0).long())
    loss.backward()
    assert loss.item() == 0


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


def test_forms_of_labels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4)
    loss = DKDLoss()
    expected = loss(student, teacher, torch.tensor([0, 3, 1]))
    for labels in (torch.tensor([0, 3, 1]), samples([0, 3, 1])):
        assert loss(student, teacher, gt_labels=labels) == expected
        assert loss(student, teacher, data_samples=labels) == expected


def test_errors():
    loss, logits = DKDLoss(), torch.randn(2, 3)
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'Add data_samples=dict.*ModuleInp'):
        loss(logits, logits)
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(2, 4\)'):
        loss(logits, torch.randn(2, 4), labels)
    with pytest.raises(ValueError, match='2 classes or more'):
        loss(logits[:, :1], logits[:, :1], labels)
    with pytest.raises(ValueError, match=r'preds_S holds \[\(2, 3\)\].*data_'):
        loss([[logits]], [[logits]], labels)
    with pytest.raises(
        ValueError, match=r'\(5, 3\).*the same images, or proposals'
    ):
        loss(logits, torch.randn(5, 3), labels)
    with pytest.raises(ValueError, match=r'shape \(3\,\).*\(2, 3\)'):
        loss(logits, logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match='one integer class per row'):
        loss(logits, logits, torch.rand(2, 3))
    with pytest.raises(ValueError, match=r'from 0 to 3 .*\[0, 3\)'):
        loss(logits, logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match='Mixup'):
        loss(
            logits,
            logits,
            data_samples=[
                s.set_gt_score(torch.rand(3)) for s in samples([0, 1])
            ],
        )
    with pytest.raises(ValueError, match='map gt_labels'):
        loss(logits, logits, data_samples=[DataSample()] * 2)
    with pytest.raises(ValueError, match='preds_S has 0 levels'):
        loss([], [], labels)
    with pytest.raises(ValueError, match='tau'):
        DKDLoss(tau=0)


@pytest.mark.parametrize('key', ['data_samples', 'gt_labels'])
def test_on_a_classifier(key):
    source = {'data_samples': '', 'gt_labels': 'head.loss_module'}[key]
    fc = dict(type='ModuleOutputs', source='head.fc')
    distiller = dict(
        student_recorders=dict(
            fc=fc, truth=dict(type='ModuleInputs', source=source)
        ),
        teacher_recorders=dict(fc=fc),
        distill_losses=dict(
            loss_dkd=dict(type='kdvit_mm.DKDLoss', beta=0.5, tau=2.0)
        ),
        loss_forward_mappings=dict(
            loss_dkd={
                'preds_S': dict(from_student=True, recorder='fc'),
                'preds_T': dict(from_student=False, recorder='fc'),
                key: dict(from_student=True, recorder='truth', data_idx=1),
            }
        ),
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('fc', side) for side in (True, False)
    )
    expected = slow_dkd(student, teacher, [3, 0, 3, 9], 1.0, 0.5, 2.0)
    torch.testing.assert_close(losses['distill.loss_dkd'], expected)
