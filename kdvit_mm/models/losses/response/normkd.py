"""Normalised logits for knowledge distillation."""

from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement

from kdvit_mm.models.losses.response.dkd import DKDLoss
from kdvit_mm.models.losses.response.kd import KDLoss
from kdvit_mm.models.losses.response.logit_loss import LabelledLoss
from kdvit_mm.models.utils.labels import class_of_rows
from kdvit_mm.registry import MODELS, SCOPE


@MODELS.register_module()
class NormKDLoss(LabelledLoss):
    r"""Gives each sample, of each network, a temperature of its own.

    .. math:: L = \frac{1}{N} \sum_n \tau_T^2\, \ell\big(z_S / \tau_S,
        z_T / \tau_T\big), \quad \tau_S = t\,\sigma(z_S),\;
        \tau_T = t\,\sigma(z_T),

    with :math:`\sigma` the standard deviation (of n - 1) over the classes and
    :math:`\ell` the divergence of :class:`KDLoss` or :class:`DKDLoss`.

    Chi et al., *NormKD: Normalized Logits for Knowledge Distillation*, 2023,
    arXiv:2308.00520. Official code: https://github.com/gizi1/NormKD. As
    there, logits are not centred, gradients flow through the student's
    temperature, and the teacher's temperature alone scales the loss. Logits
    that are all equal, which have no temperature there, get a small one. Two
    classes are refused, since normalised logits differ by the same then.

    Args:
        tau (float): t above, by which standard deviations are multiplied.
            Defaults to 1.0.
        loss (dict | None): Config of a ``KDLoss``, or of a ``DKDLoss``, which
            needs labels; its own ``tau`` stays 1. Defaults to None, a
            ``KDLoss``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``tau`` is not above 0, or ``loss`` is another loss.
    """

    min_classes = 3
    too_few = 'two have one distance, whatever they were, once normalised'

    def __init__(
        self,
        tau: float = 1.0,
        loss: dict | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = tau
        loss = {'_scope_': SCOPE, **(loss or {'type': 'KDLoss'})}
        self.loss = MODELS.build(loss)
        if not isinstance(self.loss, (KDLoss, DKDLoss)):
            raise ValueError(
                'NormKDLoss: loss is a KDLoss or a DKDLoss, got '
                f'{type(self.loss).__name__}.'
            )

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Computes the mean over the rows of each level."""
        losses = []
        for student, teacher in zip(students, teachers, strict=True):
            tau_s, tau_t = (self._tau(x) for x in (student, teacher))
            logits = student / tau_s, teacher / tau_t
            if isinstance(self.loss, DKDLoss):
                labels = class_of_rows(data_samples, student, 'NormKDLoss')
                rows = self.loss.row_losses(*logits, labels)
            else:
                rows = self.loss.row_losses(*logits)
            loss = (tau_t.squeeze(1).square() * rows).mean()
            losses.append(self.loss.loss_weight * loss)
        return losses

    def _tau(self, logits: torch.Tensor) -> torch.Tensor:
        """The temperature of each row, shape (N, 1)."""
        return self.tau * logits.std(1, keepdim=True).clamp_min(1e-7)
