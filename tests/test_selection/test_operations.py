import pytest
import torch
from torch import nn

from kdvit_mm.selection.operations import count_operations


@pytest.mark.parametrize(
    ('function', 'count'),
    [
        (lambda x: 2 * x + 1, 2 * 120),
        (lambda x: (x - 1).square().sum(), 3 * 120),
        (lambda x: x.softmax(1), 120),
        (lambda x: x.view(6, 20).t()[1:], 0),
        (lambda x: x.view(6, 20) @ x.view(20, 6), 2 * 6 * 6 * 20),
        (lambda x: nn.functional.mse_loss(x, x), 120),
    ],
)
def test_counts_equal_those_by_hand(function, count):
    x = torch.randn(2, 3, 4, 5)
    assert count_operations(lambda: function(x)) == count


def test_convolution_counts_two_a_multiply_add():
    conv = nn.Conv2d(3, 6, 3, padding=1)
    x = torch.randn(2, 3, 4, 5)
    assert count_operations(lambda: conv(x)) == 2 * (2 * 6 * 20) * (3 * 9)
