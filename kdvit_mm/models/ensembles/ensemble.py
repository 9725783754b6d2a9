"""Ensembles of classifiers, segmentors or detectors."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import nn

from kdvit_mm.models.utils.samples import own_samples
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import MODELS

#: By package, what merges several predictions of an image: the models for
#: test-time augmentation.
MERGERS: dict[str, dict] = {
    'mmdet': {
        'type': 'mmdet.models.DetTTAModel',  # mmengine's registry has it
        'tta_cfg': {
            'nms': {'type': 'nms', 'iou_threshold': 0.5},
            'max_per_img': 100,
        },
    },
    'mmseg': {'type': 'mmseg.SegTTAModel'},
    'mmpretrain': {'type': 'mmpretrain.AverageClsScoreTTA'},
}


@MODELS.register_module()
class Ensemble(BaseModel):
    """Merges the predictions of several models for the same classes.

    Predictions are merged as those of views of an image are in test-time
    augmentation: probabilities of classes, or of the classes of pixels, are
    averaged; boxes are put together and thinned out by non-maximum
    suppression. ``tools/model_converters/make_ensemble.py`` makes one of
    checkpoints. It cannot be trained.

    Furlanello, Lipton, Tschannen, Itti and Anandkumar, *Born-Again Neural
    Networks*, ICML 2018, arXiv:1805.04770, average all generations so.

    Args:
        members (Sequence[dict | BaseModel]): The models, of one package. They
            see the images as the first one's data preprocessor leaves them.
        merger (dict): The package's model for test-time augmentation, such as
            one of :data:`MERGERS`.
        data_preprocessor (dict | nn.Module | None): As in ``BaseModel``.
            Defaults to None, the first member's.
        init_cfg (dict | None): As in ``BaseModel``. Defaults to None.
    """

    def __init__(
        self,
        members: Sequence[dict | BaseModel],
        merger: dict,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        built = [
            MODELS.build(in_own_scope(member))
            if isinstance(member, dict)
            else member
            for member in members
        ]
        super().__init__(
            data_preprocessor or built[0].data_preprocessor, init_cfg
        )
        self.members = nn.ModuleList(built)
        # No submodule, or the first member would be in checkpoints twice.
        self.__dict__['merger'] = MODELS.build(
            ConfigDict(merger, module=built[0])
        )

    def forward(
        self,
        inputs: torch.Tensor,
        data_samples: list | None = None,
        mode: str = 'predict',
    ) -> list:
        """Predicts.

        Args:
            inputs (torch.Tensor): Images of shape (N, C, H, W).
            data_samples (list | None): Their samples. Defaults to None.
            mode (str): Always 'predict', which is the default.

        Returns:
            list: The samples with the merged predictions.

        Raises:
            ValueError: If ``mode`` is another.
        """
        if mode != 'predict':
            raise ValueError(
                f'Ensemble predicts, but was called in mode "{mode}". Train '
                'its members one by one.'
            )
        predictions = (
            member(inputs, own_samples(data_samples), mode='predict')
            for member in self.members
        )
        merged = self.merger.merge_preds(
            [
                [_as_seen(sample) for sample in samples]
                for samples in zip(*predictions, strict=True)
            ]
        )
        for sample in merged:
            # mmpretrain's keeps the label of the first view.
            if 'pred_score' in sample:
                sample.set_pred_label(sample.pred_score.argmax())
        return merged


def _as_seen(sample: Any) -> Any:
    """Tells the merger of boxes that the image was not mirrored."""
    if 'flip' not in sample.metainfo:
        sample.set_metainfo({'flip': False, 'flip_direction': None})
    return sample
