# ruff: noqa: C408  (configs read best as dict())
import pytest
import torch

from kdvit_mm.models.connectors.mgd import MGDGenerator  # noqa: F401
from kdvit_mm.models.losses.mgd import MGDLoss
from tests.tiny_pair import distill


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


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype, autocast):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        (torch.rand(2, 1, 8, 25, 17, generator=generator) * 2 - 1)
        .mul(1e4)
        .to(dtype)
        .contiguous(memory_format=torch.preserve_format)
    )
    expected = MGDLoss(2e-5)(student.double(), teacher.double()).item()
    student.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        value = MGDLoss(2e-5)(
            student.contiguous(memory_format=torch.channels_last), teacher
        )
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert student.grad.isfinite().all()


def test_errors():
    feature = torch.zeros(1, 4, 5, 6)
    with pytest.raises(ValueError, match=r'\(1, 4, 5, 6\).*\(1, 4, 5, 5\)'):
        MGDLoss(1.0)(feature, feature[..., :5])
    with pytest.raises(ValueError, match=r'in_channel=2, out_channel=4'):
        MGDLoss(1.0)(feature[:, :2], feature)


def test_from_config():
    losses = {
        f'loss_mgd_{i}': dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5)
        for i in range(5)
    }
    connectors = {
        f'connector_{i}': dict(
            type='kdvit_mm.MGDGenerator',
            student_channels=8,
            teacher_channels=16,
            lambda_mgd=0.65,
        )
        for i in range(5)
    }
    state = None
    runs = []
    for _ in range(2):
        model, values = distill(losses, connectors, with_boxes=False)
        if state is not None:
            assert torch.equal(torch.get_rng_state(), state)
        state = torch.get_rng_state()
        runs.append({k: v for k, v in values.items() if 'distill' in k})
    assert len(runs[0]) == 5
    # The draws are the step's own, whatever the student draws.
    assert all(runs[0][key] == runs[1][key] for key in runs[0])
    assert all(value > 0 for value in runs[0].values())
    sum(runs[1].values()).backward()
    for i in range(5):
        connector = model.distiller.connectors[f'connector_{i}']
        assert connector.align.weight.grad.isfinite().all()
        assert connector.generation[2].weight.grad.abs().sum() > 0
    gradient = model.architecture.backbone.conv1.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_from_config_without_mask():
    """With nothing hidden the value is a function of the records alone."""
    losses = dict(loss_mgd_2=dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5))
    connector = dict(
        type='kdvit_mm.MGDGenerator',
        student_channels=8,
        teacher_channels=16,
        lambda_mgd=0.0,
    )
    model, values = distill(
        losses, dict(connector_2=connector), with_boxes=False
    )
    record = dict(recorder='fpn', data_idx=2)
    student = model.distiller.get_record(
        from_student=True, connector='connector_2', **record
    )
    teacher = model.distiller.get_record(from_student=False, **record)
    expected = 2e-5 * (student - teacher).square().sum() / 2
    assert values['distill.loss_mgd_2'].item() == pytest.approx(
        expected.item(), rel=1e-5
    )
