"""A batch of each image and its rotations."""

from typing import Any

import torch
from mmpretrain.models.utils.data_preprocessor import ClsDataPreprocessor

from kdvit_mm.models.losses.relation.sskd import VIEWS
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.samples import own_samples
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class RotatedViewsDataPreprocessor(ClsDataPreprocessor):
    """Puts each image of a training batch into it four times, rotated.

    Rows and samples of an image follow each other, rotated by 0, 90, 180 and
    270 degrees, which the sample's metainfo ``view`` says. All are of the one
    image that the pipeline made, where the code of SSKD crops each rotation
    anew: the pipeline stays that of the student alone. Batches for testing
    pass as ``ClsDataPreprocessor`` leaves them.

    Args:
        kwargs (Any): Those of ``mmpretrain.ClsDataPreprocessor``, without
            ``batch_augments``.

    Raises:
        ValueError: If there are ``batch_augments``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.batch_augments is not None:
            raise ValueError(
                'RotatedViewsDataPreprocessor: remove batch_augments. Mixup '
                'and CutMix would mix an image with others before it is '
                'rotated.'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocesses the batch and, for training, adds the rotations.

        Args:
            data (dict): ``inputs``, N images, and ``data_samples``.
            training (bool): Whether it is for training. Defaults to False.

        Returns:
            dict: ``inputs`` of shape (4N, C, H, W) and 4N ``data_samples``;
            N of both if it is not for training.

        Raises:
            ValueError: If images for training are not square.
        """
        batch = super().forward(data, training)
        if not training:
            return batch
        images = batch['inputs']
        if images.size(2) != images.size(3):
            raise ValueError(
                'RotatedViewsDataPreprocessor: images of shape '
                f'{describe(images)} are not square, so that their rotations '
                'are of different sizes. Crop squares in the training '
                'pipeline.'
            )
        views = [torch.rot90(images, k, (2, 3)) for k in range(len(VIEWS))]
        samples = []
        for sample in batch['data_samples']:
            for view in VIEWS:
                samples.append(own_samples(sample))
                samples[-1].set_metainfo({'view': view})
        inputs = torch.stack(views, 1).flatten(0, 1)
        return {'inputs': inputs, 'data_samples': samples}
