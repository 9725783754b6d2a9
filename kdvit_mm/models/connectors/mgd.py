"""The generator of masked generative distillation."""

import torch
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from torch import nn

from kdvit_mm.registry import MODELS


@MODELS.register_module()
class MGDGenerator(BaseConnector):
    """Hides a part of the student's map and generates the teacher's from it.

    Zhendong Yang, Zhe Li, Mingqi Shao, Dachuan Shi, Zehuan Yuan, Chun Yuan:
    Masked Generative Distillation. ECCV 2022, arXiv:2205.01529. Official
    code: https://github.com/yzd-v/MGD.

    A 1×1 convolution where the channels differ, a random mask, then 3×3
    convolution, ReLU, 3×3 convolution. The mask is drawn on the CPU whatever
    the map's device, so that a seed gives the same mask everywhere.

    The paper's lambda_mgd: 0.65 for one-stage detectors and SOLO, 0.45 for
    two-stage detectors, 0.75 for segmentation, 0.15 for classification.

    Args:
        student_channels (int): Channels of the student's map, C_S.
        teacher_channels (int): Channels of the teacher's map, C_T.
        lambda_mgd (float): Share of the map that is hidden.
        mask_on_channel (bool): Hides whole channels, as the official
            classification code does, where the paper's text and the
            detection and segmentation code hide cells. Defaults to False.
        init_cfg (dict | None): As in mmengine's ``BaseModule``. Defaults to
            None, PyTorch's own initialisation as in the official code.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        lambda_mgd: float,
        mask_on_channel: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.student_channels = student_channels
        self.lambda_mgd = lambda_mgd
        self.mask_on_channel = mask_on_channel
        self.align = (
            nn.Conv2d(student_channels, teacher_channels, 1)
            if student_channels != teacher_channels
            else nn.Identity()
        )
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward_train(self, feature: torch.Tensor) -> torch.Tensor:
        """Generates a map from a part of the student's.

        Args:
            feature (torch.Tensor): The student's map, of shape
                (N, C_S, H, W).

        Returns:
            torch.Tensor: The generated map, of shape (N, C_T, H, W).

        Raises:
            ValueError: If the map does not have ``student_channels``
                channels.
        """
        if feature.size(1) != self.student_channels:
            raise ValueError(
                f'MGDGenerator: the map has shape {tuple(feature.shape)}, '
                f'student_channels is {self.student_channels}. Set '
                f'student_channels={feature.size(1)}.'
            )
        # A half-precision record outside autocast.
        dtype = next(self.generation.parameters()).dtype
        feature = feature.to(torch.promote_types(feature.dtype, dtype))
        feature = self.align(feature)
        return self.generation(feature * self._draw_mask(feature))

    def _draw_mask(self, feature: torch.Tensor) -> torch.Tensor:
        """1 where the map is seen, (N, 1, H, W) or (N, C_T, 1, 1)."""
        batch, channels, height, width = feature.shape
        # The official forms hide opposite ends of the random numbers.
        if self.mask_on_channel:
            seen = torch.rand((batch, channels, 1, 1)) >= self.lambda_mgd
        else:
            seen = torch.rand((batch, 1, height, width)) <= 1 - self.lambda_mgd
        return seen.to(feature)
