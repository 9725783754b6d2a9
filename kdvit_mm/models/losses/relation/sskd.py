"""Distillation of self-supervised similarities of rotated views."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn

from kdvit_mm.models.losses.base import as_levels
from kdvit_mm.models.losses.response.logit_loss import (
    LogitLoss,
    soft_divergence,
)
from kdvit_mm.models.utils.explain import LOSS_NAME, describe
from kdvit_mm.models.utils.labels import class_of_rows
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS

#: Rotations of an image, in degrees; its rows follow each other.
VIEWS = (0, 90, 180, 270)


@MODELS.register_module()
class SSKDLoss(LogitLoss):
    r"""Distils logits and similarities of an image and its rotated views.

    The batch has four views of each of N images, one of them not rotated. A
    head of two linear layers, one per network, makes an embedding of each
    view's features; :math:`a` are the N cosines of a rotated view's with the
    embeddings of the images that are not rotated. The loss is

    .. math:: L = w_{ce}\, CE + w_{kd}\, K_\tau(normal)
        + w_{tf}\, K_{\tau_{tf}}(rotated) + w_{ss}\, K_{\tau_{ss}}(a),

    K being :math:`\tau^2` times the mean KL divergence of the softmaxes and
    CE the cross-entropy of the student's normal views. Of rotated views of
    which the teacher finds the class, or the image, only at a lower rank, the
    share tf_ratio, or ss_ratio, of the best ranks is distilled.

    Xu, Liu, Li and Loy, *Knowledge Distillation Meets Self-Supervision*, ECCV
    2020, arXiv:2006.07114. Official code: https://github.com/xuguodong03/SSKD
    (``student.py``). Where it is left without a view to distil, it gives NaN
    and this loss 0. Similarities are those within one GPU.

    The teacher's head is learned first, with :class:`SSKDHeadLearning`, and
    frozen here. Views come from
    ``RotatedViewsDataPreprocessor``. As the student's own loss would take
    rotated views for normal ones, set the algorithm's
    ``calculate_student_loss=False``; ``ce_weight`` is in its place.

    Args:
        student_channels (int): Channels of the student's features.
        teacher_channels (int): Channels of the teacher's features.
        head_ckpt (str | None): File or URL of a checkpoint of
            :class:`SSKDHeadLearning` or of the official code, from which the
            teacher's head is taken. None leaves it random, which is of use in
            tests only.
        tau (float): Temperature of normal views' logits. Defaults to 4.0.
        tf_tau (float): Temperature of rotated views' logits. Defaults to 4.0.
        ss_tau (float): Temperature of similarities. Defaults to 0.5.
        tf_ratio (float): Share of wrong logits that is distilled, in [0, 1].
            Defaults to 1.0.
        ss_ratio (float): Share of wrong similarities, in [0, 1]. Defaults to
            0.75.
        ce_weight (float): Weight :math:`w_{ce}`. Defaults to 0.1.
        kd_weight (float): Weight :math:`w_{kd}`. Defaults to 0.9.
        tf_weight (float): Weight :math:`w_{tf}`. Defaults to 2.7.
        ss_weight (float): Weight :math:`w_{ss}`. Defaults to 10.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If a temperature is not above 0, a ratio not in [0, 1], or
            the checkpoint has no head of these channels.
    """

    takes_one_level = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        head_ckpt: str | None,
        tau: float = 4.0,
        tf_tau: float = 4.0,
        ss_tau: float = 0.5,
        tf_ratio: float = 1.0,
        ss_ratio: float = 0.75,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        tf_weight: float = 2.7,
        ss_weight: float = 10.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if not (tf_tau > 0 and ss_tau > 0):
            raise ValueError(
                'SSKDLoss: tf_tau and ss_tau are temperatures above 0, got '
                f'{tf_tau} and {ss_tau}.'
            )
        if not (0 <= tf_ratio <= 1 and 0 <= ss_ratio <= 1):
            raise ValueError(
                'SSKDLoss: tf_ratio and ss_ratio are shares in [0, 1], got '
                f'{tf_ratio} and {ss_ratio}.'
            )
        self.tau = tau
        self.tf_tau = tf_tau
        self.ss_tau = ss_tau
        self.tf_ratio = tf_ratio
        self.ss_ratio = ss_ratio
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.tf_weight = tf_weight
        self.ss_weight = ss_weight
        self.proj_head_s = projection_head(student_channels)
        self.proj_head_t = projection_head(teacher_channels)
        if head_ckpt is not None:
            self._load_head(head_ckpt)
        self.proj_head_t.requires_grad_(False)

    def _load_head(self, path: str) -> None:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        found = {
            key.partition('proj_head.')[2]: value
            for key, value in checkpoint.get('state_dict', checkpoint).items()
            if 'proj_head.' in key
        }
        shapes, wanted = (
            {key: tuple(value.shape) for key, value in state.items()}
            for state in (found, self.proj_head_t.state_dict())
        )
        if shapes != wanted:
            raise ValueError(
                f'SSKDLoss: head_ckpt "{path}" holds the head {shapes}, but '
                f'teacher_channels makes it {wanted}. Train one with '
                'SSKDHeadLearning on the same features of this teacher.'
            )
        self.proj_head_t.load_state_dict(found)

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[BaseDataElement] | None = None,
        feats_S: Any = None,
        feats_T: Any = None,
    ) -> torch.Tensor:
        """Computes the loss.

        Args:
            preds_S (torch.Tensor): The student's logits, shape (4N, C).
            preds_T (torch.Tensor): The teacher's logits, shape (4N, C).
            data_samples (Sequence[DataSample] | None): The 4N samples, each
                with a ``gt_label`` and the ``view`` that
                ``RotatedViewsDataPreprocessor`` gave it. Defaults to None,
                which is an error.
            feats_S (torch.Tensor | Sequence[torch.Tensor] | None): The
                student's features before the classifier, shape
                (4N, student_channels). Defaults to None, which is an error.
            feats_T (torch.Tensor | Sequence[torch.Tensor] | None): The
                teacher's. Defaults to None, which is an error.

        Returns:
            torch.Tensor: A scalar in float32, or float64 for float64 logits.

        Raises:
            ValueError: If shapes do not fit, labels are missing or soft, or
                rows are not four views of each image.
        """
        return super().forward(
            preds_S, preds_T, (data_samples, feats_S, feats_T)
        )

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Any,
    ) -> list[torch.Tensor]:
        """Computes the four terms from logits of shape (4N, C)."""
        student, teacher = students[0], teachers[0]
        samples, feats_s, feats_t = data_samples
        labels = class_of_rows(samples, student, 'SSKDLoss')
        check_views('SSKDLoss', samples, len(student))
        embedded_s = self._embed('student', feats_s, student)
        with torch.no_grad():
            embedded_t = self._embed('teacher', feats_t, teacher)

        normal_s, rotated_s = split_views(student)
        normal_t, rotated_t = split_views(teacher)
        normal, rotated = split_views(labels)
        similar_s = view_similarities(embedded_s)
        similar_t = view_similarities(embedded_t)
        tf_kept = kept(rotated_t, rotated, self.tf_ratio)
        ss_kept = kept(similar_t, own_images(similar_t), self.ss_ratio)
        tf_rows = soft_divergence(rotated_s, rotated_t, self.tf_tau)
        ss_rows = soft_divergence(similar_s, similar_t, self.ss_tau)
        return [
            self.ce_weight * F.cross_entropy(normal_s, normal),
            self.kd_weight
            * soft_divergence(normal_s, normal_t, self.tau).mean(),
            self.tf_weight * _mean_of(tf_rows, tf_kept),
            self.ss_weight * _mean_of(ss_rows, ss_kept),
        ]

    def _embed(
        self, side: str, features: Any, logits: torch.Tensor
    ) -> torch.Tensor:
        levels = as_levels(features)
        head = getattr(self, f'proj_head_{side[0]}')
        wanted = len(logits), head[0].in_features
        if len(levels) != 1 or getattr(levels[0], 'shape', None) != wanted:
            key = f'feats_{side[0].upper()}'
            raise ValueError(
                f"SSKDLoss: the {side}'s features are {describe(features)}, "
                f'but {side}_channels and the logits make them {wanted}. Set '
                f'{side}_channels, and record the features after the pooling: '
                f"{side}_recorders=dict(feats=dict(type='ModuleOutputs', "
                f"source='neck')) and {key}=dict(recorder='feats', "
                f'from_student={side == "student"}) in '
                f'loss_forward_mappings.{LOSS_NAME}.'
            )
        # Features of half precision outside autocast.
        embedded = head(levels[0].to(head[0].weight.dtype))
        return embedded.to(logits.dtype)


def projection_head(channels: int) -> nn.Sequential:
    """The self-supervised head; names are the official checkpoints'.

    Args:
        channels (int): Channels of the features and of the embeddings.

    Returns:
        nn.Sequential: Linear layer, ReLU, linear layer.
    """
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, channels),
    )


def check_views(
    name: str, data_samples: Sequence[BaseDataElement] | None, rows: int
) -> None:
    """Refuses a batch that has not all views of each image.

    Args:
        name (str): The class, for the message.
        data_samples (Sequence[BaseDataElement] | None): The samples.
        rows (int): Rows of the batch.

    Raises:
        ValueError: If they are not the views of ``VIEWS``, image by image.
    """
    views = [
        sample.get('view') if isinstance(sample, BaseDataElement) else None
        for sample in (() if data_samples is None else data_samples)
    ]
    if views != [*VIEWS] * (rows // len(VIEWS)) or len(views) != rows:
        raise ValueError(
            f'{name} needs the views {VIEWS} of each image, got {rows} rows '
            f'and {len(views)} samples of views '
            f'{sorted({str(view) for view in views})}. Set '
            "data_preprocessor.type='kdvit_mm.RotatedViewsDataPreprocessor'."
        )


def split_views(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes normal and rotated views apart.

    Args:
        rows (torch.Tensor): Rows of all views, of shape (4N, …).

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Of shapes (N, …) and (3N, …).
    """
    views = rows.unflatten(0, (-1, len(VIEWS)))
    return views[:, 0], views[:, 1:].flatten(0, 1)


def view_similarities(embedded: torch.Tensor) -> torch.Tensor:
    """Cosines of rotated views with normal ones.

    Args:
        embedded (torch.Tensor): Embeddings of all views, of shape (4N, D).

    Returns:
        torch.Tensor: Similarities of shape (3N, N).
    """
    normal, rotated = split_views(unit_vectors(embedded))
    return rotated @ normal.mT


def own_images(similarities: torch.Tensor) -> torch.Tensor:
    """The column of each rotated view's own image, of shape (3N,)."""
    images = torch.arange(similarities.size(1), device=similarities.device)
    return images.repeat_interleave(len(VIEWS) - 1)


def kept(
    scores: torch.Tensor, targets: torch.Tensor, ratio: float
) -> torch.Tensor:
    """Chooses the rows that are right, and the best of the others.

    Args:
        scores (torch.Tensor): The teacher's scores, of shape (R, K).
        targets (torch.Tensor): The right column of each row, of shape (R,).
        ratio (float): Share of the wrong rows that is kept.

    Returns:
        torch.Tensor: Booleans of shape (R,).
    """
    rank = (scores > scores.gather(1, targets[:, None])).sum(1)
    wrong = (rank > 0).sum()
    number = len(rank) - wrong + (wrong.double() * ratio).floor()
    place = rank.argsort(stable=True).argsort()
    return place < number


def _mean_of(rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    chosen = chosen.to(rows.dtype)
    return (rows * chosen).sum() / chosen.sum().clamp_min(1)
