# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Mixes images of which only some are trained on."""

from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset, Compose

from kdvit_mm.registry import TRANSFORMS

from .condensation import Condensation


@TRANSFORMS.register_module()
class MixDropped(BaseTransform):
    """Mixes dropped images into kept ones, as a condensation has decided.

    It stands behind the transforms that load an image, which it has load the
    other ones too, and before all that change it at random. Before the first
    step of :class:`KnowledgeCondensationHook`, and without the hook, it
    changes nothing. An image of another size is resized to that of the kept
    one, whose annotations stay.

    Required Keys:

    - img
    - sample_idx

    Modified Keys:

    - img
    """

    def __init__(self) -> None:
        self._dataset: BaseDataset | None = None
        self._partners = self._shares = torch.empty(0)

    def follow(self, condensation: Condensation, dataset: BaseDataset) -> None:
        """Follows a condensation from now on.

        It is called before the data loader starts its workers, which see
        later steps in shared memory.

        Args:
            condensation (Condensation): The condensation.
            dataset (BaseDataset): The data set whose pipeline this is in.
        """
        self._dataset = dataset
        self._partners = condensation.partners
        self._shares = condensation.shares

    def transform(self, results: dict) -> dict:
        """Mixes the image with others, if it is to be.

        Args:
            results (dict): What is known of the sample.

        Returns:
            dict: The same, with another ``img``.
        """
        if self._dataset is not None:
            results['img'] = self._image(
                results['sample_idx'], len(self._partners), results['img']
            )
        return results

    def _image(
        self, index: int, steps: int, loaded: np.ndarray | None = None
    ) -> np.ndarray:
        """An image as it is after some steps of the condensation."""
        for step in reversed(range(steps)):
            partner = int(self._partners[step, index])
            if partner >= 0:
                own = self._image(index, step, loaded)
                other = self._image(partner, step)
                return blend(own, other, float(self._shares[step, index]))
        return self._load(index) if loaded is None else loaded

    def _load(self, index: int) -> np.ndarray:
        assert self._dataset is not None
        transforms = self._dataset.pipeline.transforms
        load: Any = Compose(transforms[: transforms.index(self)])
        return load(self._dataset.get_data_info(index))['img']


def blend(own: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Mixes two images.

    Args:
        own (np.ndarray): An image, of shape (H, W, C) or (H, W).
        other (np.ndarray): Another one, which is resized to it.
        share (float): Share of the first.

    Returns:
        np.ndarray: The mixture, of shape and type of the first.
    """
    height, width = own.shape[:2]
    if other.shape[:2] != (height, width):
        other = mmcv.imresize(other, (width, height))
    share = np.float32(share)
    mixed = own * share + other * (np.float32(1) - share)
    return mixed.astype(own.dtype)
