import pytest
import torch
from mmpretrain.structures import DataSample

from kdvit_mm.models.losses.response.logit_loss import soft_divergence
from kdvit_mm.models.losses.response.mlld import (
    MLLDLoss,
    _batch_loss,
    _class_loss,
)
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    assert_same,
    hard_logits,
    on_hard_logits,
    on_logits,
    train_step,
)

PARTS = dict(
    kd_loss=lambda s, t, tau: soft_divergence(s, t, tau).mean(),
    bc_loss=lambda s, t, tau: _batch_loss(
        (s / tau).softmax(1), (t / tau).softmax(1)
    ),
    cc_loss=lambda s, t, tau: _class_loss(
        (s / tau).softmax(1), (t / tau).softmax(1)
    ),
)


def samples(number, views=('weak', 'strong')):
    return [
        DataSample(metainfo=dict(view=view))
        for view in views
        for _ in range(number)
    ]


def both_views(inputs, side):
    return torch.cat([inputs[f'{side}_weak'], inputs[f'{side}_strong']])


def task_loss(inputs, case):
    """The sum of the two views' cross-entropies, which the code has inside."""
    target = case.inputs['target'].long()
    return case.settings['ce_weight'] * sum(
        torch.nn.functional.cross_entropy(inputs[key], target)
        for key in ('s_weak', 's_strong')
    )


@parametrize('mlld', 'full')
def test_equals_official_code(case):
    loss = MLLDLoss(case.settings['temperature'], case.settings['kd_weight'])
    views = samples(len(case.inputs['s_weak']))
    assert_golden(
        lambda x: (
            loss(both_views(x, 's'), both_views(x, 't'), views)
            + task_loss(x, case)
        ),
        case,
    )


@parametrize('mlld', 'parts')
def test_parts_equal_official_code(case):
    part = PARTS[case.settings['part']]
    assert_golden(
        lambda x: part(
            x['logits_student'],
            x['logits_teacher'],
            case.settings['temperature'],
        ),
        case,
    )


def slow_mlld(student, teacher, first, prepare=lambda z: z):
    """The formula, pair by pair; weak views are the first half."""
    number, classes = len(student) // 2, student.size(1)
    weak = range(number)

    def kl(rows, tau):
        total = 0
        for n in rows:
            p_s, p_t = (
                (prepare(z[n]) / tau).softmax(0) for z in (student, teacher)
            )
            total = total + (p_t * (p_t / p_s).log()).sum()
        return tau**2 * total / number

    def gram(vectors):
        return [[(a * b).sum() for a in vectors] for b in vectors]

    def distance(a, b):
        return sum(
            (x - y) ** 2
            for row, other in zip(a, b, strict=True)
            for x, y in zip(row, other, strict=True)
        )

    def share(values):
        ordered = sorted(values)
        low, high = (len(values) - 1) // 2, len(values) // 2
        middle = (ordered[low] + ordered[high]) / 2
        return sum(value <= middle for value in values) / len(values)

    predicted = [teacher[n].softmax(0) for n in weak]
    unsure = share([p.max().item() for p in predicted])
    rare = share([x.item() for x in sum(predicted)])
    total = 0
    for tau in (first, 3, 5, 2, 6):
        again = weak if tau in (2, 6) else range(number, 2 * number)
        p_s, p_t = (
            torch.stack([(z[n] / tau).softmax(0) for n in weak])
            for z in (student, teacher)
        )
        total = total + unsure * kl(weak, tau) + kl(again, tau)
        total = total + unsure * distance(gram(p_s), gram(p_t)) / number
        total = total + rare * distance(gram(p_s.T), gram(p_t.T)) / classes
    return total


@pytest.mark.parametrize('shape', [(8, 5), (6, 4), (2, 3)])
def test_equals_the_formula(shape):
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, *shape, dtype=torch.float64)
    loss, views = MLLDLoss(4.0, loss_weight=3.0), samples(shape[0] // 2)
    assert_same(
        lambda x: loss(x, teacher, views),
        lambda x: 3 * slow_mlld(x, teacher, 4.0),
        student,
    )
    order = torch.randperm(shape[0])
    torch.testing.assert_close(
        loss(student[order], teacher[order], [views[n] for n in order]),
        loss(student, teacher, views),
    )


@on_hard_logits
def test_hard_input(dtype, shape, transposed):
    student, teacher, _ = hard_logits(dtype, shape, transposed)
    loss = MLLDLoss()
    if shape[0] == 1:
        student = torch.cat([student, student]).detach().requires_grad_()
        teacher = torch.cat([teacher, teacher])
    views = samples(len(student) // 2)
    assert_robust(lambda s, t: loss(s, t, views), student, teacher)


@pytest.mark.parametrize(
    'given',
    [
        None,
        samples(2, ['weak']) * 2,
        samples(2),
        [DataSample()] * 6,
        torch.zeros(6),
    ],
    ids=['none', 'weak', 'too few', 'without', 'labels'],
)
def test_rows_without_two_views(given):
    logits = torch.randn(6, 3)
    with pytest.raises(
        ValueError,
        match=r"MLLDLoss needs a weak and a strong .*TwoViewDataPreprocessor'"
        r".*type='MultiView', num_views=\[1, 1\].*data_samples=dict",
    ):
        MLLDLoss()(logits, logits, given)


def two_view_batch():
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(
        256, (2, 4, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    labels = [DataSample().set_gt_label(label) for label in (3, 0, 3, 9)]
    return dict(inputs=[list(view) for view in views], data_samples=labels)


def two_view_student():
    config = tiny.resnet(4)
    config.data_preprocessor.type = 'kdvit_mm.TwoViewDataPreprocessor'
    return config


def test_on_a_classifier():
    distiller = on_logits(dict(type='kdvit_mm.MLLDLoss', tau=4.0))
    algorithm, losses = train_step(
        two_view_student(), tiny.resnet(8), distiller, two_view_batch()
    )
    student, teacher = (
        algorithm.distiller.get_record('logits', side)
        for side in (True, False)
    )
    assert student.shape == (8, 10)
    torch.testing.assert_close(
        losses['distill.loss_kd'], slow_mlld(student, teacher, 4.0)
    )


def test_a_preprocessor_of_one_view():
    batch = two_view_batch()
    batch['inputs'] = batch['inputs'][0]
    with pytest.raises(ValueError, match=r'architecture\.data_prepr'):
        train_step(
            tiny.resnet(4),
            tiny.resnet(8),
            on_logits(dict(type='kdvit_mm.MLLDLoss')),
            batch,
        )
