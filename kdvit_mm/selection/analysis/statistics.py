"""What part of quality is the level's, the image's, and noise."""

from dataclasses import dataclass

import torch

from kdvit_mm.selection.selectors.learning import above_price

#: Half of a 95 % interval in standard errors.
INTERVAL = 1.96


@dataclass
class LevelSummary:
    """Quality of a level.

    Attributes:
        mean (float): Its mean.
        std (float): Its standard deviation over images and draws.
        positive (float): Share of images and draws where it is above 0.
        image_share (float): Share of its variance that is the image's; the
            rest differs between the draws of an image.
        cost (float): Share of the level in all levels' cost.
    """

    mean: float
    std: float
    positive: float
    image_share: float
    cost: float


@dataclass
class Components:
    """Variance components of quality; their sum is its variance.

    Attributes:
        level (float): Of the levels' means.
        image (float): Of the images' means over the levels.
        interaction (float): Of what an image and a level have beyond.
        noise (float): Between draws of an image.
        clamped (list[str]): Components whose estimate was below 0.
    """

    level: float
    image: float
    interaction: float
    noise: float
    clamped: list[str]


@dataclass
class Headroom:
    """Worth of sets of levels, in deviations of quality, mean over images.

    Attributes:
        lambda_cost (float): Price of all levels' cost.
        all_levels (float): Worth of all levels.
        fixed (float): Of the best set that is the same for all images.
        fixed_levels (list[int]): This set.
        fixed_cost (float): Its share of the cost.
        best (float): Of the best set of each image and draw. Part of it is
            noise that happened to be good.
        best_cost (float): Mean share of these sets' cost.
        honest_fixed (float): As ``fixed``, found on the other draws.
        honest_best (float): As ``best``, found on the mean of the image's
            other draws.
        honest_interval (float): Half of the 95 % interval of
            ``honest_headroom``, over images.
    """

    lambda_cost: float
    all_levels: float
    fixed: float
    fixed_levels: list[int]
    fixed_cost: float
    best: float
    best_cost: float
    honest_fixed: float
    honest_best: float
    honest_interval: float

    @property
    def headroom(self) -> float:
        """What the best sets are worth beyond the fixed set."""
        return self.best - self.fixed

    @property
    def honest_headroom(self) -> float:
        """The same without noise; below 0 where noise decides."""
        return self.honest_best - self.honest_fixed


def summarise_levels(
    quality: torch.Tensor, costs: torch.Tensor
) -> list[LevelSummary]:
    """Describes the quality of each level.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).

    Returns:
        list[LevelSummary]: One per level.
    """
    signal, noise = (x.diagonal() for x in _covariances(quality))
    signal = signal.clamp(min=0)
    flat = quality.flatten(0, 1)
    columns = (
        flat.mean(0),
        flat.std(0),
        (flat > 0).double().mean(0),
        signal / (signal + noise).clamp(min=torch.finfo(signal.dtype).tiny),
        costs,
    )
    return [
        LevelSummary(*numbers)
        for numbers in zip(*(x.tolist() for x in columns), strict=True)
    ]


def variance_components(quality: torch.Tensor) -> Components:
    """Splits the variance of quality into its sources.

    Images are a sample; the levels are all there are, so that interactions
    sum to 0 over them. The estimates are unbiased before they are clamped at
    0, whatever the distributions, also where levels differ in noise or share
    it. On balanced data they are those of the analysis of variance.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), n and R at
            least 2.

    Returns:
        Components: The variance components.

    Raises:
        ValueError: If there are not two images, or two draws of each.
    """
    signal, noise = _covariances(quality)
    means = quality.mean(1)
    of_means = torch.cov(means.T) / len(means)
    level = means.mean(0).var(unbiased=False)
    components = {
        # Minus what the levels' means scatter by chance.
        'level': level - of_means.diagonal().mean() + of_means.mean(),
        'image': signal.mean(),
        'interaction': signal.diagonal().mean() - signal.mean(),
        'noise': noise.diagonal().mean(),
    }
    return Components(
        **{name: max(0.0, float(x)) for name, x in components.items()},
        clamped=[name for name, x in components.items() if x < 0],
    )


def _covariances(quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances between levels of the images' means and of the noise."""
    images, draws = quality.shape[:2]
    if images < 2 or draws < 2:
        raise ValueError(
            f'{images} images with {draws} draws each: the noise is what '
            'differs between draws of an image, so take two or more of both.'
        )
    deviations = (quality - quality.mean(1, keepdim=True)).flatten(0, 1)
    noise = deviations.T @ deviations / (images * (draws - 1))
    return torch.cov(quality.mean(1).T) - noise / draws, noise


def find_headroom(
    quality: torch.Tensor, costs: torch.Tensor, lambda_cost: float
) -> Headroom:
    """Compares the best set of each image with the best for all.

    The true headroom, that of who knows what an image's draws have in common,
    lies between the honest one and that on single draws.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        lambda_cost (float): Price of all levels' cost, in deviations of
            quality over images, draws and levels.

    Returns:
        Headroom: Worth of the sets; none is empty.
    """
    worth = worth_of(quality, costs, lambda_cost)
    others = other_draws(worth)
    best, fixed = above_price(worth), above_price(worth.mean((0, 1)))
    honest_best = above_price(others)
    honest_fixed = above_price(others.mean(0, keepdim=True))
    gains = (worth * honest_best).sum(2) - (worth * honest_fixed).sum(2)
    return Headroom(
        lambda_cost=lambda_cost,
        all_levels=mean_worth(worth, torch.ones_like(best)),
        fixed=mean_worth(worth, fixed),
        fixed_levels=fixed.nonzero().flatten().tolist(),
        fixed_cost=float(fixed.double() @ costs),
        best=mean_worth(worth, best),
        best_cost=float((best.double() @ costs).mean()),
        honest_fixed=mean_worth(worth, honest_fixed),
        honest_best=mean_worth(worth, honest_best),
        honest_interval=interval(gains),
    )


def worth_of(
    quality: torch.Tensor, costs: torch.Tensor, lambda_cost: float
) -> torch.Tensor:
    """Quality in deviations, minus its price, with shape (n, R, L)."""
    return quality / deviation(quality) - lambda_cost * costs


def deviation(quality: torch.Tensor) -> torch.Tensor:
    """Standard deviation of quality over images, draws and levels."""
    return quality.std().clamp(min=1e-12)


def other_draws(worth: torch.Tensor) -> torch.Tensor:
    """For each draw the mean of the image's other draws."""
    return (worth.sum(1, keepdim=True) - worth) / (worth.size(1) - 1)


def mean_worth(worth: torch.Tensor, chosen: torch.Tensor) -> float:
    """Worth of the chosen levels, mean over images and draws."""
    return float((worth * chosen).sum(2).mean())


def interval(gains: torch.Tensor) -> float:
    """Half of the 95 % interval of a mean of shape (n, R), over images."""
    return float(INTERVAL * gains.mean(1).std() / len(gains) ** 0.5)
