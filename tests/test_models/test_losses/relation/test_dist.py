import pytest
import torch

from kdvit_mm.models.losses.relation.dist import DISTLoss
from tests import tiny
from tests.examples import Example, neck, pair
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)

EXAMPLES = [
    Example(dict(type='DISTLoss'), neck, 'neck'),
    Example(dict(type='DISTLoss'), lambda: pair(3, 5)),
    Example(dict(type='DISTLoss', use_sigmoid=True), lambda: pair(2, 2, 6, 5)),
    Example(dict(type='DISTLoss', use_sigmoid=True), lambda: pair(3, 5)),
]


@parametrize('dist')
def test_equals_official_code(case):
    loss = DISTLoss(
        beta=case.settings['beta'],
        gamma=case.settings['gamma'],
        tau=case.settings.get('tau', 1.0),
    )
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher']), case
    )


def slow_dist(student, teacher, beta=1.0, gamma=1.0, tau=1.0, sigmoid=False):
    """The paper's formula on a table of samples × classes, entry by entry."""

    def table(logits):
        classes = logits.size(1)
        rows = logits.movedim(1, -1).reshape(-1, classes) / tau
        if sigmoid:
            return 1 / (1 + (-rows).exp())
        return rows.exp() / rows.exp().sum(1, keepdim=True)

    def correlation(a, b):
        a, b = a - a.mean(), b - b.mean()
        norms = (a @ a).sqrt() * (b @ b).sqrt()
        return a @ b / (norms + 1e-8)

    s, t = table(student), table(teacher)
    inter = [correlation(s[i], t[i]) for i in range(len(s))]
    intra = [correlation(s[:, c], t[:, c]) for c in range(s.size(1))]
    return tau**2 * (
        beta * (1 - sum(inter) / len(inter))
        + gamma * (1 - sum(intra) / len(intra))
    )


@pytest.mark.parametrize(
    'shape',
    [(4, 6), (2, 3), (5, 2), (2, 3, 4, 2), (1, 3, 1, 5), (2, 4, 1, 1)],
)
@pytest.mark.parametrize(
    ('tau', 'sigmoid'), [(1.0, False), (1.0, True), (4.0, False), (2.0, True)]
)
def test_equals_the_formula(shape, tau, sigmoid):
    torch.manual_seed(0)
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    loss = DISTLoss(2.0, 3.0, tau, sigmoid, loss_weight=0.5)
    loss = loss(student, teacher)
    expected = 0.5 * slow_dist(student, teacher, 2.0, 3.0, tau, sigmoid)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('shape', [(2, 7), (7, 2), (2, 3, 1, 1)])
def test_two_samples_or_classes_in_float32(shape):
    """Their correlation is 1 or -1, its gradient nearly nothing."""
    torch.manual_seed(0)
    student = torch.randn(shape, requires_grad=True)
    teacher = torch.randn(shape)
    exact = student.detach().double().requires_grad_()
    options = dict(beta=0.0) if shape[0] == 2 else dict(gamma=0.0)
    loss = DISTLoss(**options)(student, teacher)
    loss.backward()
    slow_dist(exact, teacher.double(), **options).backward()
    assert loss.dtype == torch.float32
    scale = exact.grad.abs().max().item()
    torch.testing.assert_close(
        student.grad.double(), exact.grad, rtol=1e-5, atol=1e-5 * scale
    )


@pytest.mark.parametrize('sigmoid', [False, True])
@on_hard_maps
def test_hard_input(sigmoid, dtype, layout, shape):
    assert_robust(
        DISTLoss(use_sigmoid=sigmoid), *hard_pair(dtype, layout, shape)
    )


def test_hard_logits():
    student, teacher = hard_pair(torch.float16, 'contiguous', (6, 5))
    assert_robust(DISTLoss(), student, teacher)
    assert_robust(DISTLoss(), student[:1], teacher[:1])


def test_float32_on_a_large_map():
    torch.manual_seed(0)
    student = 3 * torch.randn(2, 19, 128, 128)
    teacher = student + torch.randn_like(student)
    exact = DISTLoss()(student.double(), teacher.double())
    loss = DISTLoss()(student, teacher)
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=0)


def test_errors():
    with pytest.raises(ValueError, match='2-D or 4-D'):
        DISTLoss()(torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(2, 4\)'):
        DISTLoss()(torch.randn(2, 3), torch.randn(2, 4))
    with pytest.raises(ValueError, match='tau'):
        DISTLoss(tau=-1)


def mappings(recorder):
    return dict(
        loss_dist=dict(
            preds_S=dict(from_student=True, recorder=recorder),
            preds_T=dict(from_student=False, recorder=recorder),
        )
    )


def test_on_a_segmentor():
    record = dict(
        seg=dict(type='ModuleOutputs', source='decode_head.conv_seg')
    )
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(loss_dist=dict(type='kdvit_mm.DISTLoss')),
        loss_forward_mappings=mappings('seg'),
    )
    algorithm, losses = train_step(
        tiny.fcn(8), tiny.fcn(16), distiller, segmentation_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('seg', side) for side in (True, False)
    )
    assert student.dim() == 4
    torch.testing.assert_close(
        losses['distill.loss_dist'], slow_dist(student, teacher)
    )


def segmentation_batch():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        labels = torch.randint(tiny.CLASSES, (1, 64, 64), generator=generator)
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = torch.randint(
        256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8
    )
    return dict(inputs=list(images), data_samples=samples)


def test_on_a_detector():
    """All levels at once: what the head's classifier gives them."""
    record = dict(head=dict(type='ModuleOutputs', source='bbox_head'))
    distiller = dict(
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(
            loss_dist=dict(type='kdvit_mm.DISTLoss', use_sigmoid=True)
        ),
        loss_forward_mappings=dict(
            loss_dist=dict(
                preds_S=dict(from_student=True, recorder='head', data_idx=0),
                preds_T=dict(from_student=False, recorder='head', data_idx=0),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.gfl(8), tiny.gfl(16), distiller, tiny.detection_batch(size=64)
    )
    student, teacher = (
        algorithm.distiller.get_record('head', side, data_idx=0)
        for side in (True, False)
    )
    expected = sum(
        slow_dist(s, t, sigmoid=True)
        for s, t in zip(student, teacher, strict=True)
    )
    torch.testing.assert_close(losses['distill.loss_dist'], expected)
