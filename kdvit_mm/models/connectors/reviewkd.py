"""The attention-based fusion of ReviewKD."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kdvit_mm.registry import MODELS


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm that also takes a single value per channel in training.

    One image with a 1 × 1 map has no batch statistics; the official code
    raises there, this normalises with the running ones.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.size(1):
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return super().forward(x)


class ABF(nn.Module):
    """Attention-based fusion of a level with the fused deeper one.

    Args:
        in_channels (int): Channels of the student's map.
        mid_channels (int): Channels of the fused map.
        out_channels (int): Channels of the teacher's map.
        fuse (bool): Whether there is a deeper level.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        fuse: bool,
    ) -> None:
        super().__init__()
        reduce = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        expand = nn.Conv2d(
            mid_channels, out_channels, 3, padding=1, bias=False
        )
        self.conv1 = nn.Sequential(reduce, _BatchNorm(mid_channels))
        self.conv2 = nn.Sequential(expand, _BatchNorm(out_channels))
        # In a Sequential, as in the official state dict.
        self.att_conv = (
            nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid())
            if fuse
            else None
        )
        for conv in (reduce, expand):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(
        self,
        x: torch.Tensor,
        deeper: torch.Tensor | None = None,
        out_size: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuses a level.

        Args:
            x (torch.Tensor): The student's map with shape (N, C, H, W).
            deeper (torch.Tensor | None): The fused map of the next deeper
                level with shape (N, M, H', W'). Defaults to None.
            out_size (tuple[int, int] | None): Height and width of the
                result. Defaults to None, those of ``x``.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The map that is compared with
            the teacher's and the one that the next shallower level fuses.
        """
        # Not under autocast: the student's maps may be too large for a
        # convolution in float16. All that follows is normalised.
        with torch.autocast(x.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            x = self.conv1(x.to(torch.promote_types(x.dtype, dtype)))
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[-2:], mode='nearest')
            attention = self.att_conv(torch.cat((x, deeper), dim=1))
            x = x * attention[:, :1] + deeper * attention[:, 1:]
        if out_size is not None and x.shape[-2:] != out_size:
            x = F.interpolate(x, out_size, mode='nearest')
        return self.conv2(x), x


@MODELS.register_module()
class ReviewKDConnector(nn.Module):
    """Reviews the student's levels, deep to shallow, in the teacher's shapes.

    Each level is reduced to ``mid_channels``, fused with the deeper ones by a
    learned attention, and mapped to the teacher's channels. Feed it the whole
    tuple: in a detector the recorder of ``preds_S`` on ``neck`` without
    ``data_idx``. The loss is :class:`HCLLoss`.

    Paper: Chen, Liu, Zhao, Jia, *Distilling Knowledge via Knowledge Review*,
    CVPR 2021, arXiv:2104.09044. Official code:
    https://github.com/dvlab-research/ReviewKD and, for classification,
    https://github.com/megvii-research/mdistiller.

    A classifier has, beside the maps of its stages before their last ReLU
    (the student's after it on CIFAR-100), its pooled features as the deepest
    level, as a map of 1 × 1. :class:`ModuleTupleRecorder` hands them over
    together, for both. Heights and widths of MobileNetV1 on ImageNet are
    those of ResNet-50. Those of MobileNetV2 on CIFAR-100, and of R50::

        in_channels=[12, 16, 48, 160, 1280], mid_channels=512,
        out_channels=[256, 512, 1024, 2048, 2048],
        out_sizes=[32, 16, 8, 4, 1]

    Its weight grows from 0 over 20 epochs there (from 1/20 in mdistiller:
    ``start_factor=0.05, end=19``)::

        dict(type='kdvit_mm.DistillScheduleHook', schedules=[
            dict(loss='loss_reviewkd', type='linear', start_factor=0, end=20)])

    The parameters are named as in the official detection code, whose
    ``abfs.0`` is the deepest level: its state dicts load as they are. Those
    of mdistiller's list of fusions lack the prefix ``abfs.``. One image with
    a 1 × 1 map, on which the official code raises in training, is normalised
    with the running statistics. The first convolution does not run under
    autocast.

    Args:
        in_channels (Sequence[int]): Channels of the student's maps, in the
            order in which they come, shallow to deep.
        out_channels (Sequence[int]): Channels of the teacher's maps.
        mid_channels (int): Channels of the fused maps. The paper's: 256 for
            detection and for MobileNetV1, min(512, deepest in_channels) for
            other classifiers. mdistiller's config says 256 for MobileNetV1,
            its code takes 512.
        out_sizes (Sequence[int | Sequence[int]] | None): Heights and widths
            of the teacher's maps (one number if square) where they are not
            the student's, as in mdistiller. A fused map is resized before
            the last convolution and handed on as such. Defaults to None.

    Raises:
        ValueError: If the lists differ in length.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        mid_channels: int,
        out_sizes: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        sizes: list[tuple[int, int] | None] = [None] * len(in_channels)
        if out_sizes is not None:
            sizes = [
                (size, size) if isinstance(size, int) else (size[0], size[1])
                for size in out_sizes
            ]
        if not len(in_channels) == len(out_channels) == len(sizes) > 0:
            raise ValueError(
                'ReviewKDConnector needs one entry per level in in_channels, '
                'out_channels and, if given, out_sizes, but got '
                f'{list(in_channels)}, {list(out_channels)} and {out_sizes}.'
            )
        self.in_channels = list(in_channels)
        self.out_sizes = sizes
        deepest = len(in_channels) - 1
        self.abfs = nn.ModuleList(
            ABF(
                in_channels[level],
                mid_channels,
                out_channels[level],
                fuse=level < deepest,
            )
            for level in range(deepest, -1, -1)
        )

    def forward(
        self, feature: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Fuses all levels.

        Args:
            feature (Sequence[torch.Tensor]): The student's maps, each of
                shape (N, C, H, W), shallow to deep.

        Returns:
            tuple[torch.Tensor, ...]: Maps in the same order with the
            teacher's channels and sizes.

        Raises:
            ValueError: If it is not a tuple of as many maps with as many
                channels as ``in_channels`` has.
        """
        if isinstance(feature, torch.Tensor) or self.in_channels != [
            x.size(1) for x in feature
        ]:
            got = (
                f'one map {tuple(feature.shape)}'
                if isinstance(feature, torch.Tensor)
                else f'maps {[tuple(x.shape) for x in feature]}'
            )
            raise ValueError(
                'ReviewKDConnector takes the whole tuple of maps with '
                f'in_channels={self.in_channels}, but got {got}. Record the '
                'neck without data_idx, or the stages of a classifier by '
                "type='kdvit_mm.ModuleTuple', and set in_channels to its "
                'channels.'
            )
        results: list[torch.Tensor] = []
        fused = None
        for abf, x, size in zip(
            self.abfs, feature[::-1], self.out_sizes[::-1], strict=True
        ):
            out, fused = abf(x, fused, size)
            results.append(out)
        return tuple(results[::-1])
