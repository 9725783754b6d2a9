"""A batch of a weakly and a strongly augmented view of each image."""

from typing import Any

import torch
from mmpretrain.models.utils.data_preprocessor import ClsDataPreprocessor

from kdvit_mm.models.utils.samples import own_samples
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class TwoViewDataPreprocessor(ClsDataPreprocessor):
    """Puts two views of each image into one batch of twice the size.

    The views come from mmpretrain's ``MultiView``, the weak one first::

        train_pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.MultiView', num_views=[1, 1],
                 transforms=[weak, strong]),
            dict(type='mmpretrain.PackInputs'),
        ]

    The batch has all weak views, then all strong ones, and a sample for each,
    whose metainfo ``view`` is ``'weak'`` or ``'strong'``. Batches of single
    images, as in validation, pass as ``ClsDataPreprocessor`` leaves them.

    Args:
        kwargs (Any): Those of ``mmpretrain.ClsDataPreprocessor``, without
            ``batch_augments``.

    Raises:
        ValueError: If there are ``batch_augments``, or other than two views.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.batch_augments is not None:
            raise ValueError(
                'TwoViewDataPreprocessor: remove batch_augments. Mixup and '
                'CutMix would mix weak with strong views.'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Joins the views and preprocesses the batch.

        Args:
            data (dict): ``inputs``, a list of two lists of N images, or of
                two tensors of shape (N, C, H, W), and ``data_samples``.
            training (bool): Whether it is for training. Defaults to False.

        Returns:
            dict: ``inputs`` of shape (2N, C, H, W) and 2N ``data_samples``.
        """
        views = data['inputs']
        is_views = not isinstance(views, torch.Tensor) and not (
            isinstance(views[0], torch.Tensor) and views[0].dim() == 3
        )
        if is_views:
            data = self._joined(views, data['data_samples'])
        elif training:
            raise ValueError(
                'TwoViewDataPreprocessor: the training batch has one view of '
                "each image. Put dict(type='mmpretrain.MultiView', num_views="
                '[1, 1], transforms=[WEAK, STRONG]) before PackInputs in the '
                'training pipeline.'
            )
        return super().forward(data, training)

    def _joined(self, views: list, samples: list) -> dict:
        if len(views) != 2:
            raise ValueError(
                f'TwoViewDataPreprocessor: got {len(views)} views of each '
                'image. Set num_views=[1, 1] of MultiView.'
            )
        joined = []
        for view in ('weak', 'strong'):
            for sample in own_samples(samples):
                sample.set_metainfo({'view': view})
                joined.append(sample)
        images = (
            torch.cat(list(views))
            if isinstance(views[0], torch.Tensor)
            else [*views[0], *views[1]]
        )
        return {'inputs': images, 'data_samples': joined}
