import pytest
import torch

from kdvit_mm.models.losses.wrappers.logit_standardise import (
    LogitStandardise,
    standardise,
)
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    assert_same,
    classification_batch,
    hard_logits,
    hard_pair,
    on_hard_logits,
    on_hard_maps,
    on_logits,
    train_step,
)
from tests.test_models.test_losses.response.test_mlld import (
    both_views,
    samples,
    slow_mlld,
    task_loss,
    two_view_batch,
    two_view_student,
)
from tests.test_models.test_losses.test_dist import slow_dist
from tests.test_models.test_losses.test_dkd import slow_dkd

KD = dict(type='KDLoss', tau=2.0)


def golden_loss(settings, inside):
    if settings['logit_stand']:
        return LogitStandardise(loss=inside)
    return MODELS.build(dict(inside, _scope_='kdvit_mm'))


@parametrize('lskd', 'kd')
def test_kd_equals_official_code(case):
    loss = golden_loss(
        case.settings, dict(type='KDLoss', tau=case.settings['temperature'])
    )
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher']), case
    )


@parametrize('lskd', 'dkd')
def test_dkd_equals_official_code(case):
    settings = case.settings
    weights = {key: settings[key] for key in ('alpha', 'beta')}
    loss = golden_loss(
        settings, dict(type='DKDLoss', tau=settings['temperature'], **weights)
    )
    target = case.inputs['target'].long()
    assert_golden(
        lambda x: loss(x['logits_student'], x['logits_teacher'], target), case
    )


@parametrize('lskd', 'mlkd')
def test_mlld_equals_official_code(case):
    settings = case.settings
    loss = golden_loss(
        settings,
        dict(
            type='MLLDLoss',
            tau=settings['temperature'],
            loss_weight=settings['kd_weight'],
        ),
    )
    views = samples(len(case.inputs['s_weak']))
    assert_golden(
        lambda x: (
            loss(both_views(x, 's'), both_views(x, 't'), views)
            + task_loss(x, case)
        ),
        case,
    )


def z_scores(row):
    """Of one row, by the definition."""
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / (len(row) - 1)
    return torch.stack([(x - mean) / (1e-7 + variance.sqrt()) for x in row])


def test_z_scores():
    torch.manual_seed(0)
    rows = torch.randn(3, 5, dtype=torch.float64)
    assert_same(
        lambda x: standardise(x).pow(3).sum(),
        lambda x: torch.stack([z_scores(row) for row in x]).pow(3).sum(),
        rows,
    )
    scores = standardise(torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(scores, torch.tensor([[-1.0, 0, 1]]))


@pytest.mark.parametrize('kind', ['dkd', 'dist', 'mlld', 'nkd', 'wsld'])
def test_around_other_losses(kind):
    from tests.test_models.test_losses.response.test_nkd import slow_nkd
    from tests.test_models.test_losses.response.test_wsld import slow_wsld

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    labels = torch.tensor([0, 5, 2, 2])
    inside, given, slow = {
        'dkd': (
            dict(type='DKDLoss', beta=8.0, tau=2.0),
            labels,
            lambda s, t: slow_dkd(s, t, labels, 1.0, 8.0, 2.0),
        ),
        'dist': (
            dict(type='DISTLoss', tau=2.0),
            None,
            lambda s, t: slow_dist(s, t, tau=2.0),
        ),
        'mlld': (
            dict(type='MLLDLoss'),
            samples(2),
            lambda s, t: slow_mlld(s, t, 4.0, z_scores),
        ),
        'nkd': (
            dict(type='NKDLoss', gamma=1.5, tau=2.0),
            labels,
            lambda s, t: slow_nkd(s, t, labels, 1.5, 2.0),
        ),
        'wsld': (
            dict(type='mmrazor.WSLD', tau=2.0, num_classes=6),
            labels,
            lambda s, t: slow_wsld(s, t, labels, 2.0),
        ),
    }[kind]
    loss = LogitStandardise(loss=dict(inside, loss_weight=9), loss_weight=0.5)
    takes = 'gt_labels' if kind == 'wsld' else 'data_samples'

    def expected(x):
        if kind == 'mlld':
            return 4.5 * slow(x, teacher)
        rows = (
            torch.stack([z_scores(row) for row in z]) for z in (x, teacher)
        )
        return 4.5 * slow(*rows)

    assert_same(
        lambda x: loss(x, teacher, **{takes: given}), expected, student
    )


def test_maps_are_standardised_over_classes():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 3, 4)
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    loss = LogitStandardise(loss=KD)
    torch.testing.assert_close(loss(student, teacher), loss(*rows))


@on_hard_maps
def test_hard_input(dtype, layout, shape):
    loss = LogitStandardise(loss=KD)
    assert_robust(loss, *hard_pair(dtype, layout, shape))


@on_hard_logits
def test_hard_logits(dtype, shape, transposed):
    student, teacher, labels = hard_logits(dtype, shape, transposed)
    loss = LogitStandardise(loss=dict(type='DKDLoss'))
    if shape[1] == 2:
        with pytest.raises(ValueError, match=r'3 classes or more.*distance'):
            loss(student, teacher, labels)
    else:
        assert_robust(lambda s, t: loss(s, t, labels), student, teacher)


def test_equal_logits():
    """Such as those of a classifier that begins with zeros."""
    student = torch.full((2, 4), 3.0, requires_grad=True)
    loss = LogitStandardise(loss=KD)(student, torch.randn(2, 4))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_errors():
    logits = torch.randn(2, 3)
    loss = LogitStandardise(loss=KD)
    with pytest.raises(ValueError, match=r'LogitStandardise: .*classes diff'):
        loss(logits, torch.randn(2, 4))
    with pytest.raises(ValueError, match='DKDLoss needs the class of each'):
        LogitStandardise(loss=dict(type='DKDLoss'))(logits, logits)
    with pytest.raises(ValueError, match='put ScaleDecouple around LogitStan'):
        LogitStandardise(loss=dict(type='ScaleDecouple', loss=KD))


def test_plain_names_are_those_of_this_package():
    """Also in the scope of mmrazor, which has a DKDLoss of its own."""
    loss = MODELS.build(
        dict(
            type='kdvit_mm.LogitStandardise',
            loss=dict(type='DKDLoss'),
            _scope_='mmrazor',
        )
    )
    assert type(loss.loss).__module__.startswith('kdvit_mm.')
    other = LogitStandardise(loss=dict(type='mmrazor.DKDLoss'))
    assert type(other.loss).__module__.startswith('mmrazor.')


@pytest.mark.parametrize('mixed', [False, True])
def test_on_a_classifier_and_with_soft_labels(mixed):
    student = tiny.resnet(4)
    if mixed:
        student.data_preprocessor.batch_augments = dict(
            augments=dict(type='Mixup', alpha=1.0)
        )
    distiller = on_logits(
        dict(type='kdvit_mm.LogitStandardise', loss=KD), with_samples=mixed
    )
    algorithm, losses = train_step(
        student, tiny.resnet(8), distiller, classification_batch()
    )
    rows = [
        torch.stack([z_scores(row) for row in record])
        for record in (
            algorithm.distiller.get_record('logits', side)
            for side in (True, False)
        )
    ]
    p_s, p_t = ((x / 2).softmax(1) for x in rows)
    expected = 4 * (p_t * (p_t / p_s).log()).sum(1).mean()
    torch.testing.assert_close(losses['distill.loss_kd'], expected)


def test_mlld_on_a_classifier():
    distiller = on_logits(
        dict(type='kdvit_mm.LogitStandardise', loss=dict(type='MLLDLoss'))
    )
    algorithm, losses = train_step(
        two_view_student(), tiny.resnet(8), distiller, two_view_batch()
    )
    records = [
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    ]
    torch.testing.assert_close(
        losses['distill.loss_kd'], slow_mlld(*records, 4.0, z_scores)
    )
