"""Distances of an untrained student to its teacher, by DisWOT.

Dong, Li and Wei, *DisWOT: Student Architecture Search for Distillation
WithOut Training*, CVPR 2023, arXiv:2303.15678. Official code:
https://github.com/lliai/DisWOT-CVPR2023 (``distiller_zoo/SP.py`` and
``ICKD.py``). Its score of a student is minus the sum of both distances.
"""

import torch

from kdvit_mm.models.losses.base import in_full_precision
from kdvit_mm.models.losses.relation.sp import similarity_distance
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.unit import unit_vectors


def relation_distance(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    r"""How differently both networks relate the images of a batch.

    :math:`\|G_S - G_T\|_F^2 / N^2`, G being :math:`F F^\top` of the
    flattened maps with each row divided by its length, as in
    :class:`~kdvit_mm.models.losses.SPLoss`.

    Args:
        student (torch.Tensor): The student's last map before the pooling,
            of shape (N, …).
        teacher (torch.Tensor): The teacher's, of shape (N, …), on the same
            images.

    Returns:
        torch.Tensor: A scalar, in at least float32.

    Raises:
        ValueError: If the batches differ or are of one image, whose
            distance is always 0.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f'relation_distance takes two images or more of both, the same, '
            f'but got {describe(student)} and {describe(teacher)}.'
        )
    return similarity_distance(*in_full_precision(student, teacher))


def semantic_distance(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    r"""How differently the classifiers' gradients relate the classes.

    :math:`\|G_S - G_T\|_F^2 / C`, G being :math:`g g^\top` with each row
    divided by its length, a mean over images where there are several.

    Args:
        student (torch.Tensor): Gradient g of the cross-entropy with respect
            to the weight of the student's classifier, of shape (C, features),
            or channels C of maps, of shape (N, C, …).
        teacher (torch.Tensor): The teacher's, of as many classes.

    Returns:
        torch.Tensor: A scalar, in at least float32.

    Raises:
        ValueError: If classes, or batches, differ.
    """
    dim = 0 if student.dim() == 2 else 1
    if (
        student.dim() != teacher.dim()
        or student.shape[: dim + 1] != teacher.shape[: dim + 1]
    ):
        raise ValueError(
            'semantic_distance takes the gradients of two classifiers of as '
            f'many classes, (classes, features), but got {describe(student)} '
            f'and {describe(teacher)}.'
        )
    pair = in_full_precision(student, teacher)
    ours, theirs = (_relations(x.flatten(dim + 1)) for x in pair)
    return (ours - theirs).square().sum(-1).mean()


def _relations(rows: torch.Tensor) -> torch.Tensor:
    return unit_vectors(rows @ rows.mT, dim=-1)
