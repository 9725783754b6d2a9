import pytest
import torch
from mmengine.registry import MODELS

from kdvit_mm.selection import FPNLevelSelectionRecorder
from kdvit_mm.selection.recorder import Pyramid
from tests import tiny


def record(source: str, levels=None, grad: bool = True):
    torch.manual_seed(0)
    model = MODELS.build(tiny.gfl()).train()
    recorder = FPNLevelSelectionRecorder(source, levels)
    recorder.initialize(model)
    batch = model.data_preprocessor(tiny.detection_batch(2, 64), True)
    with recorder, torch.set_grad_enabled(grad):
        losses = model(**batch, mode='loss')
    return model, recorder.get_record_data(), model.parse_losses(losses)[0]


def test_head_and_distillation_get_gradients_apart():
    _model, pyramid, task = record('neck', [0, 2, 3])
    assert isinstance(pyramid, Pyramid)
    assert [x.shape[-1] for x in pyramid] == [8, 2, 1]
    for distilled, used in zip(pyramid, pyramid.used, strict=True):
        assert torch.equal(distilled, used)
    distill = sum((2 * x).sum() for x in pyramid)
    gradients = torch.autograd.grad(
        task + distill, [*pyramid, *pyramid.used], retain_graph=True
    )
    # Though the fourth map is made from the third and hands gradient down.
    for gradient in gradients[:3]:
        assert torch.equal(gradient, torch.full_like(gradient, 2))
    alone = torch.autograd.grad(task, pyramid.used, retain_graph=True)
    for both, task_only in zip(gradients[3:], alone, strict=True):
        assert torch.equal(both, task_only)


def test_recording_changes_nothing_for_the_model():
    model, _, task = record('neck')
    task.backward()
    torch.manual_seed(0)
    plain = MODELS.build(tiny.gfl()).train()
    batch = plain.data_preprocessor(tiny.detection_batch(2, 64), True)
    total = plain.parse_losses(plain(**batch, mode='loss'))[0]
    total.backward()
    assert torch.equal(task, total)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_frozen_teacher_is_recorded_too():
    _, pyramid, _ = record('neck', grad=False)
    assert len(pyramid) == 5
    assert not any(x.requires_grad for x in pyramid)


@pytest.mark.parametrize(
    ('source', 'levels', 'words'),
    [
        ('neck', [0, 5], r'\[5\], but "neck" returns 5 levels, 0 to 4'),
        ('neck', [-1], r'names \[-1\]'),
        ('backbone.layer1', None, 'returns no pyramid'),
        ('neck.lateral_convs.0', None, 'returns no pyramid'),
    ],
)
def test_wrong_sources_and_levels_are_named(source, levels, words):
    with pytest.raises(ValueError, match=words):
        record(source, levels)
