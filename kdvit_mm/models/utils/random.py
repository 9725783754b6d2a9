"""Random numbers that do not touch the student's stream."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed_seed(*key: int) -> int:
    """Mixes numbers into a seed, so that near keys give unrelated streams.

    Args:
        *key (int): What the seed depends on, such as a run's seed, the step
            and the rank; none below 0.

    Returns:
        int: The seed, below 2 ** 32.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Draws from streams of its own and restores all others afterwards.

    Building a teacher or a connector, a sampling teacher and a loss that
    masks at random would otherwise shift the student's initial weights,
    augmentation and dropout, and no comparison with the student trained alone
    would be fair.

    Args:
        seed (int): Seed of the streams inside: Python's, NumPy's, torch's CPU
            stream and, where CUDA is in use, the current device's.
    """
    seed %= 2**63
    python, numpy = random.getstate(), np.random.get_state()
    devices = []
    if torch.cuda.is_initialized():
        devices.append(torch.cuda.current_device())
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # Not torch.manual_seed: it would reseed devices that are not saved.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
