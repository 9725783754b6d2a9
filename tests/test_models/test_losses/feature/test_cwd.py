import pytest
import torch

from kdvit_mm.models.losses.feature.cwd import CWDLoss
from tests import tiny
from tests.examples import Example, maps, neck
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)

EXAMPLES = [
    Example(dict(type='CWDLoss'), neck, 'neck'),
    *(
        Example(
            dict(
                type='CWDLoss',
                tau=2,
                norm_type=norm,
                divergence=divergence,
                resize=True,
            ),
            lambda: dict(preds_S=maps(2, 4, 6, 5), preds_T=maps(2, 4, 7, 8)),
        )
        for norm, divergence in (
            ('channel', 'kl'),
            ('spatial', 'kl'),
            ('channel', 'mse'),
            ('channel_mean', 'mse'),
        )
    ),
]


@parametrize('cwd')
def test_equals_official_code(case):
    loss = CWDLoss(
        tau=case.settings['temperature'],
        norm_type=case.settings['norm_type'],
        divergence=case.settings['divergence'],
    )
    assert_golden(lambda x: loss(x['preds_S'], x['preds_T']), case)


def slow_cwd(student, teacher, tau=1.0, over='channel', divergence='kl'):
    """The paper's formula and its variants, one distribution at a time."""
    if over == 'spatial':
        student, teacher = (
            x.flatten(2).mT.reshape(-1, x.size(1)) for x in (student, teacher)
        )
    else:
        student, teacher = (
            x.flatten(2).flatten(0, 1) for x in (student, teacher)
        )
    if over == 'channel_mean':
        student, teacher = (x.mean(1) for x in (student, teacher))
        return ((student - teacher) ** 2).sum() / len(student)
    tau = tau if divergence == 'kl' else 1.0
    total = 0
    for s, t in zip(student, teacher, strict=True):
        p, q = torch.exp(t / tau), torch.exp(s / tau)
        p, q = p / p.sum(), q / q.sum()
        if divergence == 'kl':
            total = total + tau**2 * (p * (p.log() - q.log())).sum()
        else:
            total = total + ((p - q) ** 2).sum()
    return total / len(student)


@pytest.mark.parametrize(
    'shape', [(1, 3, 5, 2), (3, 2, 1, 1), (2, 1, 1, 9), (1, 1, 1, 1)]
)
@pytest.mark.parametrize(
    ('tau', 'over', 'divergence'),
    [
        (1, 'channel', 'kl'),
        (0.5, 'channel', 'kl'),
        (4.0, 'channel', 'kl'),
        (2.0, 'spatial', 'kl'),
        (2.0, 'channel', 'mse'),
        (1, 'spatial', 'mse'),
        (1, 'channel_mean', 'mse'),
    ],
)
def test_equals_the_formula(shape, tau, over, divergence):
    torch.manual_seed(0)
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    loss = CWDLoss(tau, 3.0, over, divergence)(student, teacher)
    expected = 3 * slow_cwd(student, teacher, tau, over, divergence)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (
        torch.autograd.grad(x, student, retain_graph=True)[0]
        for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(tau=4.0),
        dict(norm_type='spatial'),
        dict(divergence='mse'),
    ],
    ids=str,
)
@on_hard_maps
def test_hard_input(options, dtype, layout, shape):
    assert_robust(CWDLoss(**options), *hard_pair(dtype, layout, shape))


def test_levels_are_summed():
    torch.manual_seed(0)
    loss = CWDLoss()
    levels = [
        (torch.randn(2, 3, s, s), torch.randn(2, 3, s, s)) for s in (4, 2)
    ]
    total = loss([s for s, _ in levels], tuple(t for _, t in levels))
    torch.testing.assert_close(total, loss(*levels[0]) + loss(*levels[1]))


def test_resize():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 8, 6)
    larger = torch.nn.functional.interpolate(student, (8, 6), mode='bilinear')
    loss = CWDLoss(resize=True)(student, teacher)
    torch.testing.assert_close(loss, CWDLoss()(larger, teacher))


def test_errors():
    loss, maps = CWDLoss(), torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match='resize=True'):
        loss(maps, torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match='in_channel=3, out_channel=6'):
        CWDLoss(resize=True)(maps, torch.randn(2, 6, 8, 8))
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\).*\(1, 3, 4, 4\)'):
        loss(maps, maps[:1])
    with pytest.raises(ValueError, match='1 levels and preds_T has 2'):
        loss([maps], [maps, maps])
    with pytest.raises(ValueError, match='4-D tensors, but preds_T'):
        loss(maps, maps.flatten(1))
    with pytest.raises(ValueError, match=r'preds_S holds.*data_idx'):
        loss([[maps]], [maps])
    with pytest.raises(ValueError, match='norm_type'):
        CWDLoss(norm_type='pixel')
    with pytest.raises(ValueError, match='divergence'):
        CWDLoss(divergence='l2')
    with pytest.raises(ValueError, match="divergence='mse'"):
        CWDLoss(norm_type='channel_mean')
    with pytest.raises(ValueError, match='tau'):
        CWDLoss(tau=0)


@pytest.mark.parametrize('level', [0, None])
def test_on_a_detector(level):
    fpn = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    distiller = dict(
        student_recorders=fpn,
        teacher_recorders=fpn,
        distill_losses=dict(
            loss_cwd=dict(type='CWDLoss', tau=2.0, loss_weight=5.0)
        ),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(
                    from_student=True, recorder='fpn', data_idx=level
                ),
                preds_T=dict(
                    from_student=False, recorder='fpn', data_idx=level
                ),
            )
        ),
    )
    algorithm, losses = train_step(
        tiny.gfl(8), tiny.gfl(16), distiller, tiny.detection_batch(size=64)
    )
    expected = 0
    for i in range(5) if level is None else [level]:
        student, teacher = (
            algorithm.distiller.get_record('fpn', side, data_idx=i).detach()
            for side in (True, False)
        )
        expected += 5 * slow_cwd(student, teacher, 2.0)
    torch.testing.assert_close(losses['distill.loss_cwd'].detach(), expected)
