# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Further views of an image, for its teachers."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from kdvit_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class TeacherViews(BaseTransform):
    """Ends a pipeline in one branch for the student and one for each view.

    What stands before is common to all, such as a crop or a flip; a branch may
    have another resolution or augmentation. A teacher with
    ``teacher_input=dict(view='large')`` sees that view::

        train_pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='RandomFlip', prob=0.5),
            dict(
                type='kdvit_mm.TeacherViews',
                student=[
                    dict(type='Resize', scale=(224, 224)),
                    dict(type='PackInputs')],
                views=dict(large=[
                    dict(type='Resize', scale=(448, 448)),
                    dict(type='PackInputs')])),
        ]

    Args:
        student (Sequence[dict]): Transforms of what the student sees, packing
            included.
        views (Mapping[str, Sequence[dict]]): Those of the views, by name.

    Raises:
        ValueError: If a view has a name of what is packed.
    """

    def __init__(
        self,
        student: Sequence[dict],
        views: Mapping[str, Sequence[dict]],
    ) -> None:
        taken = {'inputs', 'data_samples'} & set(views)
        if taken:
            raise ValueError(
                f'TeacherViews: a view cannot be named "{taken.pop()}", as '
                'what is packed for the student. Rename it.'
            )
        self.student = Compose(student)
        self.views = {name: Compose(view) for name, view in views.items()}

    def transform(self, results: dict) -> dict[str, Any] | None:
        """Makes all views.

        Args:
            results (dict): The image and what is known of it.

        Returns:
            dict[str, Any] | None: What is packed for the student, with what
            is packed for each view under its name; None if a transform gives
            none.
        """
        packed = {
            name: view(copy.deepcopy(results))
            for name, view in self.views.items()
        }
        own = self.student(results)
        if own is None or None in packed.values():
            return None
        return {**own, **packed}
