"""Images of which it is known what each level is worth."""

import torch

from kdvit_mm.selection import State

COSTS = {
    1: [1.0],
    2: [0.8, 0.2],
    3: [0.6, 0.3, 0.1],
    4: [0.5, 0.25, 0.15, 0.1],
    5: [0.4, 0.3, 0.15, 0.1, 0.05],
    6: [0.4, 0.2, 0.15, 0.1, 0.1, 0.05],
}


class Images:
    """Pyramids whose levels are bright where they are worth something.

    A level of an image is worth ``good`` where the teacher's map is bright
    and ``bad`` elsewhere; student and teacher have other channels.

    Args:
        num_levels (int): Number of levels, L.
        kind (str): 'fixed', the same level on every image; 'one', a random
            one an image; 'set', a random set of levels an image.
        good (float): Quality of a bright level.
        bad (float): Quality of the others.
        noise (float): Deviation of the noise on the quality.
        seed (int): Seed of the images.
    """

    def __init__(
        self,
        num_levels,
        kind='set',
        good=1.0,
        bad=-0.5,
        noise=0.0,
        seed=0,
    ):
        self.num_levels = num_levels
        self.kind = kind
        self.good, self.bad, self.noise = good, bad, noise
        self.generator = torch.Generator().manual_seed(seed)
        self.costs = torch.tensor(COSTS[num_levels])

    def draw(self, number=16):
        """A state, and the quality (N, L) of its levels."""
        levels = self.num_levels
        if self.kind == 'set':
            drawn = torch.rand(number, levels, generator=self.generator)
            bright = drawn < 0.5
        else:
            level = torch.full((number,), levels // 2)
            if self.kind == 'one':
                level = torch.randint(
                    levels, (number,), generator=self.generator
                )
            bright = torch.nn.functional.one_hot(level, levels) > 0
        quality = torch.where(bright, self.good, self.bad)
        student = self._maps(number, 4)
        teacher = [
            maps * (1 + bright[:, i, None, None, None])
            for i, maps in enumerate(self._maps(number, 6))
        ]
        noise = torch.randn(number, levels, generator=self.generator)
        state = State(student, teacher, self.costs)
        return state, quality + self.noise * noise

    def _maps(self, number, channels):
        return [
            torch.randn(number, channels, size, size, generator=self.generator)
            for size in range(self.num_levels + 2, 2, -1)
        ]


def observe(selector, images, number=16, known='chosen'):
    """One iteration of training; the qualities of all levels or the chosen."""
    state, quality = images.draw(number)
    plan = selector.plan(state)
    if known == 'chosen':
        quality = quality.where(plan.levels, torch.tensor(torch.nan))
    selector.observe(quality, torch.ones(number, dtype=torch.bool))
    return plan


def train(selector, images, updates, batches=4, number=16, known='chosen'):
    """Lets a selector learn; returns the last update's diagnostics."""
    diagnostics = {}
    for _ in range(updates):
        for _ in range(batches):
            observe(selector, images, number, known)
        diagnostics = selector.learn()
    return diagnostics


def share_of_best(selector, images, number=1000):
    """Return of a selector on fresh images, between random and best.

    Returns:
        float: 1 where each image gets its best levels, 0 where the return is
        that of choosing each non-empty set equally often.
    """
    noise, images.noise = images.noise, 0.0
    state, quality = images.draw(number)
    images.noise = noise
    selector.eval()
    levels = selector.plan(state).levels
    selector.train()
    quality = quality / selector.quality_moments.deviation
    worth = quality - selector.lambda_cost * images.costs
    got = (worth * levels).sum(1).mean()
    best = worth.clamp(min=0).sum(1)
    best = torch.where(best > 0, best, worth.amax(1)).mean()
    half = 2 ** (images.num_levels - 1) / (2**images.num_levels - 1)
    random = half * worth.sum(1).mean()
    return ((got - random) / (best - random)).item()
