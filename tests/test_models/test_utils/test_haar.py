import numpy as np
import pytest
import pywt
import torch

from kdvit_mm.models.utils.haar import haar_dwt, haar_idwt
from tests.golden import parametrize

SIZES = [(16, 24), (25, 19), (7, 8), (2, 3), (1, 5), (1, 1)]


def _waverec2(low, details):
    bands = [
        tuple(band.numpy() for band in level.unbind(2))
        for level in details[::-1]
    ]
    return pywt.waverec2([low.numpy(), *bands], 'haar', mode='zero')


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('levels', [1, 2, 3])
def test_equals_pywavelets(size, levels):
    x = np.random.default_rng(0).normal(size=(2, 3, *size))
    low, details = haar_dwt(torch.from_numpy(x), levels)
    for level in range(levels):
        x, bands = pywt.dwt2(x, 'haar', mode='zero')
        np.testing.assert_allclose(
            details[level].numpy(), np.stack(bands, 2), atol=1e-13
        )
    np.testing.assert_allclose(low.numpy(), x, atol=1e-13)


@pytest.mark.parametrize('size', SIZES)
def test_inverse_equals_pywavelets_and_restores(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    low, details = haar_dwt(x, 3)
    torch.testing.assert_close(haar_idwt(low, details, size), x)
    expected = _waverec2(low, details)
    np.testing.assert_allclose(
        haar_idwt(low, details).numpy(), expected, atol=1e-13
    )


def test_inverse_of_changed_bands_equals_pywavelets():
    low, details = haar_dwt(torch.randn(1, 2, 25, 19).double(), 3)
    low, details = low.cos(), [bands.sin() for bands in details]
    expected = _waverec2(low, details)
    out = haar_idwt(low, details)
    assert out.shape == (1, 2, 26, 20)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-13)


@parametrize('freekd', 'dwt')
def test_golden(case):
    low, details = haar_dwt(case.inputs['x'], case.settings['J'])
    for name, out in [('yl', low)] + [
        (f'yh.{i}', bands) for i, bands in enumerate(details)
    ]:
        torch.testing.assert_close(
            out, case.outputs[name], rtol=1e-10, atol=1e-13
        )


def test_gradients():
    x = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: [haar_dwt(x, 2)[0], *haar_dwt(x, 2)[1]], x
    )
    assert torch.autograd.gradcheck(
        lambda x: haar_idwt(*haar_dwt(x, 2), (5, 3)).cos(), x
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_keeps_dtype_and_memory_format(dtype):
    x = torch.randn(1, 4, 6, 8)
    half = x.to(dtype).contiguous(memory_format=torch.channels_last)
    low, details = haar_dwt(half, 2)
    assert low.dtype == details[0].dtype == dtype
    torch.testing.assert_close(
        low.float(), haar_dwt(x, 2)[0], rtol=0.02, atol=0.05
    )
    assert haar_idwt(low, details).dtype == dtype
