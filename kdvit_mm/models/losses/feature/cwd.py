"""Channel-wise distillation."""

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss, tempered
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class CWDLoss(DistillLoss):
    r"""Matches the spatial distribution of each channel.

    Each channel of each image becomes a distribution over its positions, a
    softmax at temperature :math:`\tau`, and

    .. math:: L = \frac{\tau^2}{N C} \sum_{n,c} KL(T_{nc} \| S_{nc}).

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*,
    ICCV 2021, arXiv:2011.13256. Official code:
    https://github.com/irfanICMLL/TorchDistiller, whose other normalisations
    and divergences are the options below. Values and gradients are equal; a
    softmax that underflows, infinite there, is finite here. A map of one
    position has no gradient.

    Args:
        tau (float): Temperature of the softmax; as in the official code it is
            not used by ``divergence='mse'``. Defaults to 1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
        norm_type (str): ``'channel'``, softmax over the H·W positions;
            ``'spatial'``, softmax over the C channels, averaged over N·H·W;
            ``'channel_mean'``, the mean of each channel, only with ``'mse'``.
            Defaults to 'channel'.
        divergence (str): ``'kl'`` or ``'mse'``, the summed squared difference
            in its place. Defaults to 'kl'.
        resize (bool): Whether the student's maps are resized (bilinear) to
            the teacher's height and width where these differ. Defaults to
            False.

    Raises:
        ValueError: If an option has no such value, or ``'channel_mean'`` is
            combined with ``'kl'``.
    """

    takes_dims = (4,)

    def __init__(
        self,
        tau: float = 1.0,
        loss_weight: float = 1.0,
        norm_type: str = 'channel',
        divergence: str = 'kl',
        resize: bool = False,
    ) -> None:
        super().__init__(loss_weight)
        if norm_type not in ('channel', 'spatial', 'channel_mean'):
            raise ValueError(
                f'norm_type "{norm_type}" is not one of "channel", "spatial" '
                'and "channel_mean".'
            )
        if divergence not in ('kl', 'mse'):
            raise ValueError(
                f'divergence "{divergence}" is neither "kl" nor "mse".'
            )
        if norm_type == 'channel_mean' and divergence == 'kl':
            raise ValueError(
                "norm_type='channel_mean' is not a distribution; set "
                "divergence='mse'."
            )
        self.tau = tau
        self.resized_side = 'student' if resize else None
        self.norm_type = norm_type
        self.divergence = divergence

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        student, teacher = student.flatten(2), teacher.flatten(2)
        over = 1 if self.norm_type == 'spatial' else 2
        count = student.numel() // student.size(over)
        if self.divergence == 'kl':
            log_s = F.log_softmax(tempered(student, self.tau), over)
            log_t = F.log_softmax(tempered(teacher, self.tau), over)
            loss = F.kl_div(log_s, log_t, reduction='sum', log_target=True)
            return loss * (self.tau**2 / count)
        if self.norm_type == 'channel_mean':
            student, teacher = student.mean(2), teacher.mean(2)
        else:
            student, teacher = student.softmax(over), teacher.softmax(over)
        return F.mse_loss(student, teacher, reduction='sum') / count

    def suggest_fix(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        """Says what makes the two shapes equal."""
        if student.shape[:2] == teacher.shape[:2]:
            return 'Set resize=True to resize the student.'
        return super().suggest_fix(student, teacher)
