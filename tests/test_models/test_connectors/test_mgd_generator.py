import pytest
import torch
import torch.nn.functional as F

from kdvit_mm.models.connectors.mgd import MGDGenerator
from kdvit_mm.models.losses.feature.mgd import MGDLoss
from tests.golden import parametrize
from tests.loss_checks import assert_golden


@parametrize('mgd')
def test_golden(case, monkeypatch):
    settings = case.settings

    def rand(size):
        assert tuple(size) == case.inputs['draw0'].shape
        return case.inputs['draw0']

    monkeypatch.setattr(torch, 'rand', rand)
    generator = MGDGenerator(
        settings['student_channels'],
        settings['teacher_channels'],
        settings['lambda_mgd'],
        mask_on_channel=settings['variant'] == 'cls',
    )
    generator.double().load_state_dict(case.params)
    loss = MGDLoss(settings['alpha_mgd'])
    assert_golden(
        lambda inputs: loss(generator(inputs['preds_S']), inputs['preds_T']),
        case,
        generator,
    )


@pytest.mark.parametrize('shape', [(2, 3, 5, 7), (1, 3, 1, 1), (1, 3, 4, 1)])
@pytest.mark.parametrize('on_channel', [False, True])
def test_value_equals_a_loop(on_channel, shape):
    torch.manual_seed(0)
    model = MGDGenerator(3, 4, 0.4, mask_on_channel=on_channel)
    feature = torch.randn(shape)
    batch, _, height, width = shape
    torch.manual_seed(7)
    value = model(feature)
    torch.manual_seed(7)
    hidden = model.align(feature).clone()
    if on_channel:
        draw = torch.rand(batch, 4, 1, 1)
        for n in range(batch):
            for c in range(4):
                if draw[n, c] < 0.4:
                    hidden[n, c] = 0
    else:
        draw = torch.rand(batch, 1, height, width)
        for n in range(batch):
            for y in range(height):
                for x in range(width):
                    if draw[n, 0, y, x] > 0.6:
                        hidden[n, :, y, x] = 0
    first, _, last = model.generation
    hidden = F.conv2d(hidden, first.weight, first.bias, padding=1)
    expected = F.conv2d(hidden.relu(), last.weight, last.bias, padding=1)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize('on_channel', [False, True])
def test_share_of_hidden(on_channel):
    model = MGDGenerator(64, 64, 0.65, mask_on_channel=on_channel)
    torch.manual_seed(0)
    seen = model._draw_mask(torch.zeros(8, 64, 64, 64))
    assert seen.shape == ((8, 64, 1, 1) if on_channel else (8, 1, 64, 64))
    assert seen.unique().tolist() == [0, 1]
    assert seen.mean().item() == pytest.approx(0.35, abs=0.05)


@pytest.mark.parametrize('share', [0.0, 1.0])
@pytest.mark.parametrize('on_channel', [False, True])
def test_all_or_nothing(share, on_channel):
    seen = MGDGenerator(4, 4, share, on_channel)._draw_mask(
        torch.zeros(2, 4, 50, 50)
    )
    assert (seen == 1 - share).all()


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype, autocast):
    torch.manual_seed(0)
    model = MGDGenerator(6, 8, 0.5)
    feature = ((torch.rand(2, 6, 13, 21) * 2 - 1) * 1e4).to(dtype)
    feature = feature.contiguous(memory_format=torch.channels_last)
    feature.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        value = MGDLoss(2e-5)(model(feature), torch.zeros(2, 8, 13, 21))
    value.backward()
    assert value.isfinite()
    assert feature.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_error():
    with pytest.raises(
        ValueError, match=r'\(1, 3, 2, 2\).*Set student_channels=3'
    ):
        MGDGenerator(4, 4, 0.5)(torch.zeros(1, 3, 2, 2))
