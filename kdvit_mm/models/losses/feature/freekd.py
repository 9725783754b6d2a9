"""FreeKD: distillation of frequency bands under learned prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from kdvit_mm.models.losses.base import DistillLoss, as_levels
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.haar import haar_dwt, haar_idwt
from kdvit_mm.registry import MODELS

LEVELS = 3


class FrequencyPrompt(nn.Module):
    """The prompt tokens of one map, one set per wavelet band.

    ``mask_token``, as it is named in the official checkpoints, has shape
    (1 + levels, T, C): one set of T tokens for the low band and one for the
    detail bands of each level, finest first.

    Args:
        channels (int): Channels C of the teacher's map.
        num_tokens (int): Tokens T of a band.
    """

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(
            0.01 * torch.randn(1 + LEVELS, num_tokens, channels)
        )

    def masks(self, band: torch.Tensor, index: int) -> torch.Tensor:
        """Where a band matters to each token.

        Args:
            band (torch.Tensor): Values of shape (N, C, h, w).
            index (int): 0 for the low band, j for the details of level j.

        Returns:
            torch.Tensor: Masks of shape (N, T, h, w) in [0, 1].
        """
        token = self.mask_token[index]
        token = token.to(torch.promote_types(token.dtype, band.dtype))
        return torch.einsum('tc,nchw->nthw', token, band).sigmoid()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Passes the map through the masks.

        Args:
            x (torch.Tensor): The teacher's map with shape (N, C, H, W).

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The map put together from the
            masked bands, summed over the tokens, at least float32, with shape
            (N, C, H, W) and odd H and W rounded up; and the overlap of the
            tokens' masks, a scalar.
        """
        with torch.autocast(x.device.type, enabled=False):
            low, details = haar_dwt(
                x.to(torch.promote_types(x.dtype, torch.float32)), LEVELS
            )
            masks = self.masks(low, 0)
            overlap = dice_overlap(masks)
            low = low * masks.sum(1, keepdim=True)
            for level, bands in enumerate(details):
                masks = self.masks(bands.sum(2), level + 1)
                overlap = overlap + dice_overlap(masks)
                details[level] = bands * masks.sum(1)[:, None, None]
            return haar_idwt(low, details), overlap


def dice_overlap(masks: torch.Tensor) -> torch.Tensor:
    """Mean Dice coefficient of all pairs of different masks.

    Args:
        masks (torch.Tensor): Masks of shape (N, T, h, w).

    Returns:
        torch.Tensor: A scalar, 0 where T = 1 (the official code gives NaN).
    """
    flat = masks.flatten(2)
    common = flat @ flat.transpose(1, 2)
    area = common.diagonal(dim1=1, dim2=2) + 1e-12
    dice = 2 * common / (area[:, :, None] + area[:, None, :])
    others = 1 - torch.eye(flat.size(1), dtype=dice.dtype, device=dice.device)
    pairs = flat.size(0) * flat.size(1) * (flat.size(1) - 1)
    return (dice * others).sum() / max(pairs, 1)


@MODELS.register_module()
class FreeKDLoss(DistillLoss):
    """Absolute error of wavelet details where the teacher's prompts point.

    Paper: Zhang, Huang, Liu, Jiang, Zhang, *FreeKD: Knowledge Distillation
    via Semantic Frequency Prompt*, CVPR 2024, arXiv:2311.12079. Official
    code: https://github.com/Gumpest/FreeKD
    (``mmrazor/models/losses/freekd.py``).

    A three-level Haar transform splits a map into details D_j with shape
    (N, C, 3, h, w). With tokens P_j, the teacher gives masks
    m_j = sigmoid(P_j · Σ_bands D_j), and the map adds
    Σ_j mean(abs(m_j D_j(S) - m_j D_j(T))) over images, tokens, channels,
    bands and positions.

    As in the released code, the masks are per level: its names cH, cV and cD
    hold the three levels, not the three orientations, and the low band is not
    distilled. How the paper's masks per orientation add up over the levels is
    not stated, so they are not offered. Its unused convolutions are left out.

    The tokens are learned on the teacher with
    :class:`FreeKDPromptLearning` and frozen here. Without a checkpoint they
    are random and trained with the student, as in the released code, which
    lowers the loss by closing the masks; that is of use in tests only.

    Args:
        channels (Sequence[int]): Channels of each of the teacher's maps.
        num_tokens (int): Tokens of a band; 6 for RetinaNet in the paper's
            config. Defaults to 2.
        prompt_ckpt (str | None): File or URL of a checkpoint of
            :class:`FreeKDPromptLearning` or of the official code, from which
            the tokens are taken. Defaults to None.
        loss_weight (float): Weight of the loss; 1.0 in the paper's configs.
            Defaults to 1.0.

    Raises:
        ValueError: If the checkpoint's tokens have other shapes.
    """

    takes_dims = (4,)

    def __init__(
        self,
        channels: Sequence[int],
        num_tokens: int = 2,
        prompt_ckpt: str | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.takes_pyramid = len(channels) > 1
        self.mask_modules = nn.ModuleList(
            FrequencyPrompt(c, num_tokens) for c in channels
        )
        if prompt_ckpt is not None:
            self._load_prompts(prompt_ckpt)
            self.mask_modules.requires_grad_(False)

    def _load_prompts(self, path: str) -> None:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        found = {
            key[key.find('mask_modules') :]: value
            for key, value in checkpoint.get('state_dict', checkpoint).items()
            if 'mask_modules' in key and key.endswith('mask_token')
        }
        wanted = {
            f'mask_modules.{name}': tuple(token.shape)
            for name, token in self.mask_modules.named_parameters()
        }
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        if shapes != wanted:
            raise ValueError(
                f'FreeKDLoss: prompt_ckpt "{path}" holds the tokens {shapes}, '
                f'but channels and num_tokens make them {wanted}.'
            )
        self.load_state_dict(found)

    def pairs(
        self,
        preds_S: torch.Tensor | Sequence[torch.Tensor],
        preds_T: torch.Tensor | Sequence[torch.Tensor],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Checks that there is one prompt per map, then as any loss."""
        students = as_maps('FreeKDLoss', preds_S, self.mask_modules, False)
        teachers = as_maps('FreeKDLoss', preds_T, self.mask_modules)
        return super().pairs(students, teachers)

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Any,
    ) -> list[torch.Tensor]:
        """Computes all maps, of shape (N, C, H, W), a scalar per map."""
        return [
            self._map_loss(student, teacher, prompt)
            for student, teacher, prompt in zip(
                students, teachers, self.mask_modules, strict=True
            )
        ]

    def _map_loss(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        prompt: Any,
    ) -> torch.Tensor:
        bands = haar_dwt(teacher, LEVELS)[1]
        errors = haar_dwt(student - teacher, LEVELS)[1]
        loss = student.new_zeros(())
        for level in range(LEVELS):
            masks = prompt.masks(bands[level].sum(2), level + 1)
            # Masks are positive and common to all channels and bands: the
            # product of T times the maps' size is never needed.
            error = errors[level].abs().mean((1, 2))
            loss = loss + (masks.mean(1) * error).mean()
        return loss


def as_maps(
    name: str,
    preds: torch.Tensor | Sequence[torch.Tensor],
    prompts: nn.ModuleList,
    check_channels: bool = True,
) -> Sequence[torch.Tensor]:
    """Maps as a sequence that has one prompt per map.

    Args:
        name (str): The class, for the message.
        preds (torch.Tensor | Sequence[torch.Tensor]): Maps of shape
            (N, C, H, W) or one such map.
        prompts (nn.ModuleList): The :class:`FrequencyPrompt` of each map.
        check_channels (bool): Whether channels must fit too. Defaults to
            True.

    Returns:
        Sequence[torch.Tensor]: The maps.

    Raises:
        ValueError: If numbers or channels do not fit.
    """
    maps = as_levels(preds)
    channels = [token.size(2) for token in prompts.parameters()]
    if len(maps) != len(channels) or (
        check_channels and [x.size(1) for x in maps] != channels
    ):
        raise ValueError(
            f'{name}: channels={channels} does not fit the maps '
            f"{describe(maps)}. Set channels to those of the teacher's maps, "
            'one entry per map, and record the whole neck (no data_idx).'
        )
    return maps
