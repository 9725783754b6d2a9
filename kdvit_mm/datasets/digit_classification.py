# Copyright (c) kdvit_mm contributors. All rights reserved.
"""The digit crops as a data set of mmpretrain."""

from mmpretrain.datasets import CustomDataset

from kdvit_mm.registry import DATASETS

from .digit_scenes import CLASSES, require_digit_scenes


@DATASETS.register_module()
class DigitClassification(CustomDataset):
    """Crops of 32 px with one handwritten digit each.

    It takes the arguments of :class:`mmpretrain.datasets.CustomDataset`; its
    ``data_root`` is the folder with the manifest.
    """

    METAINFO = {'classes': CLASSES}

    def load_data_list(self) -> list[dict]:
        """Load the annotations of a whole data set.

        Returns:
            list[dict]: One entry per image.

        Raises:
            FileNotFoundError: If the data set is missing or unfinished.
        """
        require_digit_scenes(self.data_root)
        return super().load_data_list()
