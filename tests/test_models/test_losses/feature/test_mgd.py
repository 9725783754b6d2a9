import pytest
import torch

from kdvit_mm.models.connectors.mgd import MGDGenerator  # noqa: F401
from kdvit_mm.models.losses.feature.mgd import MGDLoss
from tests.examples import Example, neck
from tests.loss_checks import (
    assert_robust,
    hard_pair,
    on_hard_maps,
    train_step,
)
from tests.tiny import detection_batch, gfl

EXAMPLES = [Example(dict(type='MGDLoss', alpha_mgd=2e-5), neck, 'neck')]


def test_value_and_gradient():
    student, teacher = torch.randn(2, 3, 4, 5, 7, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    value = MGDLoss(alpha_mgd=0.5)(student, teacher)
    value.backward()
    expected = 0.0
    for n in range(3):
        for c in range(4):
            expected += ((student - teacher)[n, c] ** 2).sum().item() / 3
    assert value.item() == pytest.approx(0.5 * expected, rel=1e-12)
    torch.testing.assert_close(
        student.grad, ((student - teacher) / 3).detach(), rtol=1e-12, atol=0
    )
    assert teacher.grad is None


@on_hard_maps
def test_robust(dtype, layout, shape):
    assert_robust(MGDLoss(2e-5), *hard_pair(dtype, layout, shape))


def test_errors():
    feature = torch.zeros(1, 4, 5, 6)
    with pytest.raises(ValueError, match=r'\(1, 4, 5, 6\).*\(1, 4, 5, 5\)'):
        MGDLoss(1.0)(feature, feature[..., :5])
    with pytest.raises(ValueError, match=r'in_channel=2, out_channel=4'):
        MGDLoss(1.0)(feature[:, :2], feature)


def make_distiller(share):
    generator = dict(
        type='kdvit_mm.MGDGenerator',
        student_channels=8,
        teacher_channels=16,
        lambda_mgd=share,
    )
    loss = dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5)
    fpn = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    return dict(
        student_recorders=fpn,
        teacher_recorders=fpn,
        connectors={f'generate_{i}': generator for i in range(5)},
        distill_losses={f'loss_mgd_{i}': loss for i in range(5)},
        loss_forward_mappings={
            f'loss_mgd_{i}': dict(
                preds_S=dict(
                    recorder='fpn',
                    from_student=True,
                    data_idx=i,
                    connector=f'generate_{i}',
                ),
                preds_T=dict(recorder='fpn', from_student=False, data_idx=i),
            )
            for i in range(5)
        },
    )


def test_from_config():
    """With nothing hidden the value is a function of the records alone."""
    algorithm, values = train_step(
        gfl(8, 8), gfl(8, 16), make_distiller(0.0), detection_batch(2, 128)
    )
    assert len(values) == 5
    assert all(value > 0 for value in values.values())
    distiller = algorithm.distiller
    for name, value in distiller.compute_distill_losses().items():
        mapping = distiller.loss_forward_mappings[name]
        student = distiller.get_record(**mapping['preds_S'])
        teacher = distiller.get_record(**mapping['preds_T'])
        expected = 2e-5 * (student - teacher).square().sum() / 2
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_masks_do_not_depend_on_the_student():
    """Draws come from the step's seed and leave the student's stream."""
    runs = []
    for share in (0.65, 0.65, 0.0):
        _, values = train_step(
            gfl(8, 8), gfl(8, 16), make_distiller(share), detection_batch()
        )
        runs.append((values, torch.get_rng_state()))
    assert all(runs[0][0][key] == runs[1][0][key] for key in runs[0][0])
    assert all(runs[0][0][key] != runs[2][0][key] for key in runs[0][0])
    assert torch.equal(runs[0][1], runs[2][1])
