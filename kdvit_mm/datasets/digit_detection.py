# Copyright (c) kdvit_mm contributors. All rights reserved.
"""The digit scenes as a data set of mmdet."""

from mmdet.datasets import CocoDataset

from kdvit_mm.registry import DATASETS

from .digit_scenes import CLASSES, PALETTE, require_digit_scenes


@DATASETS.register_module()
class DigitDetection(CocoDataset):
    """Boxes around handwritten digits.

    It takes the arguments of :class:`mmdet.datasets.CocoDataset`; its
    ``data_root`` is the folder with the manifest.
    """

    METAINFO = {'classes': CLASSES, 'palette': PALETTE}

    def load_data_list(self) -> list[dict]:
        """Load the annotations of a whole data set.

        Returns:
            list[dict]: One entry per image.

        Raises:
            FileNotFoundError: If the data set is missing or unfinished.
        """
        require_digit_scenes(self.data_root)
        return super().load_data_list()
