# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Samples from a part of a data set."""

from collections.abc import Iterator, Sized

from mmengine.dataset import DefaultSampler
from torch.utils.data import Sampler

from kdvit_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class CondensedSampler(Sampler):
    """mmengine's ``DefaultSampler`` of the samples that are kept.

    At the start, all are. :class:`KnowledgeCondensationHook` changes them
    between epochs, and with them the length of an epoch.

    Args:
        dataset (Sized): The data set.
        shuffle (bool): Whether to shuffle the samples. Defaults to True.
        seed (int | None): Seed of the order. Defaults to None, one that the
            processes agree upon.
        round_up (bool): Whether to repeat samples so that all processes have
            equally many. Defaults to True.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        # Batch samplers look up the images' sizes in it.
        self.dataset = dataset
        self._inner = DefaultSampler(
            range(len(dataset)), shuffle, seed, round_up
        )

    def keep(self, indices: list[int]) -> None:
        """Sets the samples to draw from.

        Args:
            indices (list[int]): Their indices in the data set.
        """
        old = self._inner
        self._inner = DefaultSampler(
            indices, old.shuffle, old.seed, old.round_up
        )
        self._inner.set_epoch(old.epoch)

    @property
    def kept(self) -> list[int]:
        """list[int]: Indices of the samples that are drawn from."""
        return list(self._inner.dataset)

    def __iter__(self) -> Iterator[int]:
        """Gives the indices of an epoch for this process."""
        indices = self._inner.dataset
        return (indices[i] for i in self._inner)

    def __len__(self) -> int:
        """Number of samples of an epoch for this process."""
        return len(self._inner)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, on which the order depends.

        Args:
            epoch (int): The epoch.
        """
        self._inner.set_epoch(epoch)
