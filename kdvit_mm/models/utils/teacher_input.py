"""What a teacher sees where it is not what the student sees."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from kdvit_mm.models.utils.samples import own_samples, without_truth
from kdvit_mm.registry import TASK_UTILS

# Metainfo that is the size of an image, of its padding or of its batch.
SHAPES = ('img_shape', 'pad_shape', 'batch_input_shape')


class RawBatch:
    """Keeps a batch as the data loader gave it.

    Attributes:
        data (dict[str, Any] | None): The last batch, with samples of its own.
    """

    data: dict[str, Any] | None = None

    def keep(self, module: nn.Module, args: tuple) -> None:
        """Is called before the data preprocessor, which writes into samples.

        Args:
            module (nn.Module): The data preprocessor.
            args (tuple): What it is given, the batch first.
        """
        self.data = own_samples(args[0])


@TASK_UTILS.register_module()
class TeacherInput:
    """Gives a teacher images of its own.

    Args:
        own_preprocessor (bool): Whether the teacher's ``data_preprocessor``
            prepares its images, from what the data loader gives, instead of
            the student's. Defaults to False.
        view (str | None): Which of the views of :class:`TeacherViews` it
            sees. Defaults to None, what the student sees.
        scale_factor (float): By how much its images are enlarged, after the
            preprocessor. It sees no ground truth then. Defaults to 1.0.

    Raises:
        ValueError: If ``scale_factor`` is not above 0.
    """

    def __init__(
        self,
        own_preprocessor: bool = False,
        view: str | None = None,
        scale_factor: float = 1.0,
    ) -> None:
        if scale_factor <= 0:
            raise ValueError(
                f'teacher_input: scale_factor is {scale_factor}; it has to be '
                'above 0.'
            )
        self.own_preprocessor = own_preprocessor
        self.view = view
        self.scale_factor = scale_factor

    @property
    def needs_raw(self) -> bool:
        """bool: Whether it starts from what the data loader gives."""
        return self.own_preprocessor or self.view is not None

    def check(self, preprocessor: nn.Module) -> None:
        """Checks that the student's batch is not augmented by itself.

        Args:
            preprocessor (nn.Module): The student's data preprocessor.

        Raises:
            ValueError: If it is, and the teacher would not see it.
        """
        if self.needs_raw and getattr(preprocessor, 'batch_augments', None):
            raise ValueError(
                'teacher_input: batch_augments of the data_preprocessor '
                'change the images of the student alone. Augment in the '
                'pipeline, or leave out own_preprocessor and view.'
            )

    def __call__(
        self,
        network: BaseModel,
        batch: tuple[torch.Tensor, Any],
        raw: dict[str, Any] | None,
        preprocessor: nn.Module,
    ) -> tuple[torch.Tensor, Any]:
        """Makes the teacher's batch.

        Args:
            network (BaseModel): The teacher.
            batch (tuple[torch.Tensor, Any]): The student's images, of shape
                (N, C, H, W), and samples.
            raw (dict[str, Any] | None): What the data loader gave.
            preprocessor (nn.Module): The student's data preprocessor.

        Returns:
            tuple[torch.Tensor, Any]: The teacher's images and samples.

        Raises:
            ValueError: If ``raw`` is not of this batch or has no such view.
        """
        images, samples = batch
        if self.needs_raw:
            if self.own_preprocessor:
                # Its device is not the module's, but the last it was sent to.
                preprocessor = network.data_preprocessor.to(images.device)
            # Not by its hooks, which keep what is raw.
            data = preprocessor.forward(self._chosen(raw, len(images)), True)
            images, samples = data['inputs'], data['data_samples']
        if self.scale_factor != 1:
            height, width = (
                round(self.scale_factor * side) for side in images.shape[2:]
            )
            images = F.interpolate(
                images,
                (height, width),
                mode='bilinear',
                antialias=self.scale_factor < 1,
            )
            samples = self._rescaled(without_truth(samples))
        return images, samples

    def _chosen(
        self, raw: dict[str, Any] | None, number: int
    ) -> dict[str, Any]:
        found = raw if self.view is None else (raw or {}).get(self.view)
        if raw is not None and found is None:
            raise ValueError(
                f'teacher_input: the batch has no view "{self.view}", only '
                f'{", ".join(raw)}. Name it in views of a '
                "dict(type='kdvit_mm.TeacherViews') that ends the pipeline."
            )
        if found is None or len(found['inputs']) != number:
            raise ValueError(
                'teacher_input: own_preprocessor and view need the batch as '
                "the data loader gave it. Send it through the algorithm's "
                'data_preprocessor first, as train_step does.'
            )
        return own_samples(found)

    def _rescaled(self, samples: Any) -> Any:
        for sample in samples or ():
            sample.set_metainfo(
                {
                    key: tuple(
                        round(self.scale_factor * side)
                        for side in sample.metainfo[key][:2]
                    )
                    for key in SHAPES
                    if key in sample.metainfo
                }
            )
        return samples
