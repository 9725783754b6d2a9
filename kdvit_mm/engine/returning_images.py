"""How many images of a training come back with the same pixels."""

import copy
import random
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Sampler

from kdvit_mm.models.algorithms.lean_teacher import LeanTeacher
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.samples import own_samples, without_truth
from kdvit_mm.models.utils.teacher_cache import image_key

IMAGES, EPOCHS = 16, 4
NEVER_RETURNS = (
    f'of {IMAGES} images, none came with the same pixels twice in {EPOCHS} '
    'epochs. The pipeline or the data preprocessor makes each view anew, as '
    'random crops, photometric distortion, Mosaic and Mixup do, so that the '
    'teacher is run for every image. Drop the cache, or train with Resize and '
    'RandomFlip alone.'
)


class _Order(Sampler):
    """Some images of a data set, in a given order."""

    def __init__(self, dataset: Any, order: list[int]) -> None:
        self.dataset = dataset
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def returning_images(
    loader: DataLoader, preprocessor: nn.Module, teacher: LeanTeacher
) -> tuple[float, float]:
    """Loads a few images in four epochs and looks for the same pixels.

    Copies of data set and preprocessor are used: data sets such as those with
    Mosaic remember what they loaded.

    Args:
        loader (DataLoader): The training's data loader, whose batch sampler
            says which images are put together.
        preprocessor (nn.Module): The training's data preprocessor.
        teacher (LeanTeacher): The teacher that sees the images.

    Returns:
        tuple[float, float]: Of the images of the last epoch, the share that
        had come with the same pixels and padding before, and the share that
        had come with the same pixels whatever the padding.
    """
    dataset: Any = copy.deepcopy(loader.dataset)
    preprocessor = copy.deepcopy(preprocessor)
    sampler: Any = loader.batch_sampler
    number = min(len(dataset), max(IMAGES, sampler.batch_size))
    images = [n * len(dataset) // number for n in range(number)]
    known: set[str] = set()
    with isolated_rng(0):
        for _ in range(EPOCHS):
            random.shuffle(images)
            order = _Order(dataset, images)
            batches = copy.deepcopy(sampler, {id(sampler.sampler): order})
            keys = [
                pair
                for indices in batches
                for pair in _keys(
                    loader.collate_fn([dataset[n] for n in indices]),
                    preprocessor,
                    teacher,
                )
            ]
            padded, plain = (
                sum(pair[n] in known for pair in keys) / max(len(keys), 1)
                for n in (0, 1)
            )
            known.update(key for pair in keys for key in pair)
    return padded, plain


def _keys(
    batch: dict[str, Any], preprocessor: nn.Module, teacher: LeanTeacher
) -> Iterator[tuple[str, str]]:
    """Of each image with its padding, and without."""
    raw = own_samples(batch)
    data = preprocessor.forward(batch, True)
    images, samples = data['inputs'], data.get('data_samples')
    if teacher.input is not None:
        images, samples = teacher.input(
            teacher.network, (images, samples), raw, preprocessor
        )
    samples = samples or [None] * len(images)
    for image, sample in zip(images, samples, strict=True):
        seen = without_truth([sample])[0] if sample is not None else None
        shape = getattr(sample, 'img_shape', image.shape[1:])
        content = image[:, : shape[0], : shape[1]]
        yield image_key(image, seen), image_key(content, None)
