from types import SimpleNamespace

import pytest
import torch

from kdvit_mm.models.utils.loss_gradients import (
    TASK,
    gradients_of,
    length_of,
    separate_losses,
)


def test_losses_are_summed_as_mmengine_does():
    ones = torch.ones(2)
    losses = {
        'student.loss_cls': [ones, 3 * ones],
        'student.loss_bbox': 5 * ones[0],
        'student.acc': 100 * ones,
        'distill.loss_kd': 7 * ones.half(),
        'distill.loss_idle': 9 * ones[0],
    }
    found = separate_losses(losses, ['distill.loss_kd'])
    assert found == {TASK: 9, 'distill.loss_kd': 7}
    assert found['distill.loss_kd'].dtype == torch.float32


def test_gradients_at_several_places_and_with_a_scale():
    places = [torch.ones(2, requires_grad=True) for _ in range(3)]
    loss = 3 * places[0].sum() + (4 * places[1]).sum()
    scaler = SimpleNamespace(scale=lambda loss: 1024 * loss)
    for scale, one in ((None, 1), (scaler, 1024)):
        found = gradients_of(loss, places, scale)
        assert found[2] is None
        assert length_of(found) == pytest.approx(50**0.5 * one)
    # The step's own backward is still to come.
    loss.backward()
    torch.testing.assert_close(places[1].grad, torch.full((2,), 4.0))


def test_no_gradient():
    place = torch.ones(2, requires_grad=True)
    assert gradients_of(torch.ones(()), [place], None) == [None]
    assert gradients_of(place.sum(), [], None) == []
    assert length_of([None]) == length_of([]) == 0
