"""Makes a resumed run draw what an uninterrupted one draws."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from kdvit_mm.models.utils.random import mixed_seed
from kdvit_mm.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Starts the random streams of every epoch from seed, epoch and rank.

    mmengine's checkpoints do not hold the state of the random generators, so
    after a resume dropout and augmentation differ from those of a run that
    was not interrupted. With this hook an epoch draws the same numbers either
    way. In an iteration-based loop torch's stream is seeded at every
    iteration; augmentation is repeated by the loop itself, which loads all
    passed batches again when it resumes.

    Workers of a data loader are seeded by mmengine when they start; with
    ``persistent_workers=True`` that is once per run, and augmentation inside
    them differs after a resume.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds all streams at the start of an epoch."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            seed = _seed(runner, runner.epoch)
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None
    ) -> None:
        """Seeds torch's stream in loops without epochs."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            torch.manual_seed(_seed(runner, runner.iter))


def _seed(runner: Runner, step: int) -> int:
    return mixed_seed(runner.seed, step, get_rank())
