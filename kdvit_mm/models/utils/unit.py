"""Vectors of length 1."""

import torch

# As in torch.nn.functional.normalize.
EPS = 1e-12


def unit_vectors(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Divides vectors by their length.

    Equals :func:`torch.nn.functional.normalize` but for a vector of no
    length, such as a map that is 0 everywhere: it stays 0 and has no gradient
    here, where that function has one of 1e12.

    Args:
        x (torch.Tensor): Vectors along ``dim``, in at least float32.
        dim (int): Dimension of a vector's entries. Defaults to 1.

    Returns:
        torch.Tensor: The vectors, of the same shape.
    """
    squares = x.square().sum(dim, keepdim=True)
    length = squares.clamp_min(EPS**2).sqrt()
    return (x / length).masked_fill(squares <= EPS**2, 0)
