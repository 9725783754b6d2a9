import pytest
import torch

from kdvit_mm.models.connectors.defeat import DeFeatAdapter
from tests.examples import Example, maps

EXAMPLES = [
    Example(
        dict(type='DeFeatAdapter', in_channel=3, out_channel=4),
        lambda: dict(feature=maps(2, 3, 6, 5).half()),
    )
]


def test_initialisation():
    torch.manual_seed(0)
    adapter = DeFeatAdapter(32, 64)
    weight = adapter.conv.weight
    assert weight.shape == (64, 32, 3, 3)
    assert weight.abs().max() < 2e-4
    assert weight.mean().abs() < 1e-6
    # A normal number beyond 2 is brought back by 2: about 0.88 is left.
    assert weight.std().item() == pytest.approx(0.873e-4, rel=0.02)
    adapter.init_weights()
    assert torch.equal(adapter.conv.weight, weight)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_map(dtype):
    torch.manual_seed(0)
    adapter = DeFeatAdapter(3, 4)
    feature = (torch.randn(2, 3, 5, 7) * 1e3).to(dtype)
    padded = torch.zeros(2, 3, 7, 9)
    padded[:, :, 1:-1, 1:-1] = feature.float()
    expected = torch.zeros(2, 4, 5, 7)
    for y in range(5):
        for x in range(7):
            window = padded[:, :, y : y + 3, x : x + 3]
            for c in range(4):
                product = window * adapter.conv.weight[c]
                expected[:, c, y, x] = (
                    product.sum((1, 2, 3)) + adapter.conv.bias[c]
                ).detach()
    torch.testing.assert_close(adapter(feature), expected)


def test_error():
    with pytest.raises(ValueError, match=r'\(1, 3, 2, 2\).*Set in_channel=3'):
        DeFeatAdapter(4, 4)(torch.zeros(1, 3, 2, 2))
