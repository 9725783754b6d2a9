import pytest
import torch
from mmpretrain.models.utils.batch_augments import CutMix, Mixup

from kdvit_mm.models.losses.response.kd import KDLoss
from tests import tiny
from tests.examples import Example, neck, pair
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    classification_batch,
    hard_pair,
    on_hard_maps,
    on_logits,
    train_step,
)

EXAMPLES = [
    Example(dict(type='KDLoss'), neck, 'neck'),
    Example(dict(type='KDLoss', tau=2), lambda: pair(3, 5)),
    Example(dict(type='KDLoss'), lambda: pair(2, 5, 6, 4)),
    Example(dict(type='KDLoss', use_sigmoid=True), neck, 'neck'),
]

DISTILLER = on_logits(
    dict(type='kdvit_mm.KDLoss', tau=4.0), with_samples=False
)


@parametrize('kd')
def test_equals_official_code(case):
    loss = KDLoss(tau=case.settings['temperature'])
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher']), case
    )


def test_by_hand():
    """Teacher (2/3, 1/3), student (1/2, 1/2): log 2 minus the entropy."""
    teacher = torch.tensor([[2.0, 1.0]]).log()
    student = torch.zeros(1, 2)
    expected = 2 / 3 * torch.tensor(4 / 3).log()
    expected = expected + 1 / 3 * torch.tensor(2 / 3).log()
    torch.testing.assert_close(KDLoss()(student, teacher), expected)
    softened = KDLoss(tau=2.0, loss_weight=3.0)(student, 2 * teacher)
    torch.testing.assert_close(softened, 12 * expected)


def test_a_map_is_the_mean_of_its_pixels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 3, 4)
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    loss = KDLoss(tau=3.0)
    torch.testing.assert_close(loss(student, teacher), loss(*rows))


@pytest.mark.parametrize('classes', [1, 4])
def test_sigmoids_are_softmaxes_of_two_classes_each(classes):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, classes, 3, 5)
    loss = KDLoss(tau=3.0, use_sigmoid=True)(student, teacher)
    pairs = [
        torch.stack([x.flatten(), torch.zeros(x.numel())], 1)
        for x in (student, teacher)
    ]
    expected = classes * KDLoss(tau=3.0)(*pairs)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_equal_networks(use_sigmoid):
    logits = torch.randn(3, 7, requires_grad=True)
    loss = KDLoss(tau=4.0, use_sigmoid=use_sigmoid)(logits, logits)
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(logits.grad, torch.zeros(3, 7))


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    for use_sigmoid in (False, True):
        loss = KDLoss(tau=2.0, use_sigmoid=use_sigmoid)
        assert_robust(loss, *hard_pair(dtype, layout, shape))


def test_hard_logits():
    student, teacher = hard_pair(torch.float16, 'contiguous', (6, 5))
    assert_robust(KDLoss(), student, teacher)
    assert_robust(KDLoss(), student[:1], teacher[:1])


def test_errors():
    logits = torch.randn(2, 3)
    with pytest.raises(
        ValueError,
        match=r'KDLoss: preds_S .*\(2, 3\).*\(2, 4\).*classes differ.*take a '
        'teacher trained for the same classes, or distil features.*CWDLoss',
    ):
        KDLoss()(logits, torch.randn(2, 4))
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(5, 3\).*or proposals'):
        KDLoss()(logits, torch.randn(5, 3))
    with pytest.raises(ValueError, match=r'2 classes or more, got \(2, 1\)'):
        KDLoss()(logits[:, :1], logits[:, 1:2])
    with pytest.raises(ValueError, match='2-D or 4-D'):
        KDLoss()(logits[0], logits[0])
    with pytest.raises(ValueError, match='tau'):
        KDLoss(tau=0)


def slow_kd(algorithm, tau):
    student, teacher = (
        (algorithm.distiller.get_record('logits', side) / tau).softmax(1)
        for side in (True, False)
    )
    return tau**2 * (teacher * (teacher / student).log()).sum(1).mean()


@pytest.mark.parametrize('augment', [None, Mixup, CutMix])
def test_on_a_classifier_and_with_soft_labels(augment):
    student = tiny.resnet(4)
    if augment:
        kind = augment.__name__
        student.data_preprocessor.batch_augments = dict(
            augments=dict(type=kind, alpha=1.0)
        )
    algorithm, losses = train_step(
        student,
        tiny.resnet(8),
        DISTILLER,
        classification_batch(),
    )
    torch.testing.assert_close(
        losses['distill.loss_kd'], slow_kd(algorithm, 4.0)
    )


def test_classifiers_of_other_classes():
    teacher = tiny.resnet(8)
    teacher.head.num_classes = 12
    with pytest.raises(
        ValueError,
        match=r'10 classes of the student with those of 12 .*same classes, or '
        'distil features instead',
    ):
        train_step(
            tiny.resnet(4),
            teacher,
            DISTILLER,
            classification_batch(),
        )
