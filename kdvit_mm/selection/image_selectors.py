"""What chooses the images that a teacher is asked about, before it runs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import get_rank

from kdvit_mm.engine.hooks.knowledge_condensation_hook import entropies
from kdvit_mm.models.utils.random import mixed_seed
from kdvit_mm.registry import TASK_UTILS

#: The least probability that a loss is divided by, which bounds its weight.
MIN_PROBABILITY = 0.2


@dataclass
class Batch:
    """What is known of a batch when only the student has seen it.

    Attributes:
        number (int): Number of images, N.
        step (int): Number of the iteration, from 0.
        progress (float): Share of the run that is done, from 0 to 1.
        records (Mapping[str, Sequence[Any]]): What the student's recorders
            have of the batch, by name.
    """

    number: int
    step: int
    progress: float
    records: Mapping[str, Sequence[Any]]


class ImageSelector(ABC):
    """Base of the selectors of images."""

    #: Whether a step's images are all chosen, or none of them.
    by_step = False

    @abstractmethod
    def choose(self, batch: Batch) -> torch.Tensor:
        """Chooses from a batch of images.

        Args:
            batch (Batch): What is known of it.

        Returns:
            torch.Tensor: What each image's distill loss is multiplied by, of
            shape (N,) on the CPU; 0 where the teacher is not asked.
        """


@TASK_UTILS.register_module()
class EveryNthStep(ImageSelector):
    """All images of every n-th step.

    Args:
        interval (int): The n; the steps are 0, n, 2 n, …

    Raises:
        ValueError: If ``interval`` is below 1.
    """

    by_step = True

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError(
                f'EveryNthStep: interval={interval}, but steps are counted '
                'in whole numbers from 1. Set it to 2 for every other step.'
            )
        self.interval = interval

    def choose(self, batch: Batch) -> torch.Tensor:
        """Chooses all images, or none."""
        chosen = batch.step % self.interval == 0
        return torch.full((batch.number,), float(chosen))


@TASK_UTILS.register_module()
class PartOfRun(ImageSelector):
    """All images of a part of the run.

    Args:
        begin (float): Share of the run after which it begins. Defaults to
            0.0.
        end (float): Share of the run at which it ends. Defaults to 1.0.

    Raises:
        ValueError: If not 0 <= ``begin`` < ``end`` <= 1.
    """

    by_step = True

    def __init__(self, begin: float = 0.0, end: float = 1.0) -> None:
        if not 0 <= begin < end <= 1:
            raise ValueError(
                f'PartOfRun: begin={begin} and end={end} are shares of the '
                'run, from 0 to 1, the first below the second.'
            )
        self.begin = begin
        self.end = end

    def choose(self, batch: Batch) -> torch.Tensor:
        """Chooses all images, or none."""
        chosen = self.begin <= batch.progress < self.end
        return torch.full((batch.number,), float(chosen))


@TASK_UTILS.register_module()
class RandomImages(ImageSelector):
    """Each image with the same probability, independently.

    The draws depend on seed, rank and iteration alone: a resumed run draws
    the same.

    Args:
        rate (float): The probability.
        importance_weights (bool): Whether a chosen image's loss is divided by
            the probability, 0.2 at least, so that its mean over the draws is
            that of full distillation. Defaults to True.
        seed (int | None): Seed of the draws. Defaults to None, the run's.

    Raises:
        ValueError: If ``rate`` is not above 0 and at most 1.
    """

    def __init__(
        self,
        rate: float,
        importance_weights: bool = True,
        seed: int | None = None,
    ) -> None:
        self.rate = _checked_rate(self, rate)
        self.weight = (
            1 / max(rate, MIN_PROBABILITY) if importance_weights else 1.0
        )
        self.seed = torch.initial_seed() if seed is None else seed

    def choose(self, batch: Batch) -> torch.Tensor:
        """Chooses at random."""
        seed = mixed_seed(self.seed, get_rank(), batch.step)
        draws = torch.rand(
            batch.number, generator=torch.Generator().manual_seed(seed)
        )
        return self.weight * (draws < self.rate).float()


@TASK_UTILS.register_module()
class UncertainImages(ImageSelector):
    """The images of which the student is least certain.

    The uncertainty is the entropy of the class probabilities, a mean over an
    image's positions and over the records of a forward.

    After Xu, Liu and Loy, *Computation-Efficient Knowledge Distillation via
    Uncertainty-Aware Mixup*, Pattern Recognition 2023, arXiv:2012.09413,
    whose strategy "entropy" it is, without the mixing of images and without
    the second forward. Official code:
    https://github.com/xuguodong03/UNIXKD.

    Args:
        rate (float): Share of a batch's images, rounded up.
        recorder (str): Name of the student's recorder of class scores, of
            shape (N, C, …).
        use_sigmoid (bool): Whether the classes have probabilities of their
            own, as those of most detectors, and no softmax. Defaults to
            False.

    Raises:
        ValueError: If ``rate`` is not above 0 and at most 1; in the forward,
            if there is no such recorder, or it has no class scores.
    """

    def __init__(
        self, rate: float, recorder: str, use_sigmoid: bool = False
    ) -> None:
        self.rate = _checked_rate(self, rate)
        self.recorder = recorder
        self.use_sigmoid = use_sigmoid

    def choose(self, batch: Batch) -> torch.Tensor:
        """Chooses the images of the highest entropy."""
        if self.recorder not in batch.records:
            raise ValueError(
                f'UncertainImages: student_recorders has no "{self.recorder}",'
                f' only {", ".join(batch.records)}. Add one of the module '
                "that gives the student's class scores."
            )
        found = batch.records[self.recorder]
        entropy = torch.stack(
            [entropies(self._logits(x), batch.number) for x in found]
        )
        # A tie is decided by the place in the batch, on any device.
        order = entropy.mean(0).cpu().argsort(descending=True, stable=True)
        weights = torch.zeros(batch.number)
        weights[order[: math.ceil(self.rate * batch.number)]] = 1
        return weights

    def _logits(self, record: Any) -> Any:
        if not (self.use_sigmoid and isinstance(record, torch.Tensor)):
            return record
        # A class against its absence, whose score is 0.
        record = record.flatten(1)
        return torch.stack([record, torch.zeros_like(record)], 1)


def _checked_rate(selector: ImageSelector, rate: float) -> float:
    if not 0 < rate <= 1:
        raise ValueError(
            f'{type(selector).__name__}: rate={rate} is a share of the '
            'images, above 0 and at most 1. To train without a teacher, train '
            "the student's own config."
        )
    return rate
