"""How well quality is predicted, and what choosing by that gains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdvit_mm.selection.analysis.measurement import Signal
from kdvit_mm.selection.analysis.statistics import (
    deviation,
    interval,
    mean_worth,
    other_draws,
    worth_of,
)
from kdvit_mm.selection.selectors.learning import above_price


@dataclass
class Rival:
    """What a way of choosing reaches on images it was not fitted on.

    Attributes:
        worth (float): In deviations of quality, mean over images.
        gain (float): Beyond the best fixed set.
        interval (float): Half of the 95 % interval of ``gain``, over images.
        cost (float): Mean share of the cost.
    """

    worth: float
    gain: float
    interval: float
    cost: float


def ridge(groups: np.ndarray) -> BaseEstimator:
    """Ridge regression whose penalty is found by cross-validation.

    Args:
        groups (np.ndarray): The image of each sample: one image's draws are
            never on both sides.

    Returns:
        BaseEstimator: The model, not fitted.
    """
    splits = GroupKFold(min(5, len(np.unique(groups)))).split(
        groups, groups=groups
    )
    return GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {'ridge__alpha': np.logspace(0, 6, 7)},
        scoring='neg_mean_squared_error',
        cv=list(splits),
    )


def boosting(groups: np.ndarray) -> BaseEstimator:
    """A small gradient boosting.

    Args:
        groups (np.ndarray): Not used.

    Returns:
        BaseEstimator: The model, not fitted.
    """
    return HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=50,
        max_depth=3,
        early_stopping=False,
        random_state=0,
    )


def split_images(
    num_images: int, held_out: float, seed: int = 0
) -> torch.Tensor:
    """Deals images out to folds, each of which is held out once.

    Args:
        num_images (int): Number of images, n.
        held_out (float): Share of a fold.
        seed (int): Seed of the deal. Defaults to 0.

    Returns:
        torch.Tensor: The fold of each image, of shape (n,).
    """
    folds = min(num_images, max(2, round(1 / held_out)))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_images, generator=generator) % folds


def predict_held_out(
    features: torch.Tensor,
    quality: torch.Tensor,
    folds: torch.Tensor,
    model: Callable[[np.ndarray], BaseEstimator],
) -> torch.Tensor:
    """Predicts each level's quality of images not fitted on.

    Args:
        features (torch.Tensor): What it is predicted from, of shape
            (n, R, K).
        quality (torch.Tensor): Quality with shape (n, R, L).
        folds (torch.Tensor): The fold of each image, of shape (n,).
        model (Callable): :func:`ridge` or :func:`boosting`.

    Returns:
        torch.Tensor: Predictions with shape (n, R, L).
    """
    predicted = torch.empty_like(quality)
    for fold in folds.unique():
        held = folds == fold
        seen, asked = (
            features[part].flatten(0, 1).numpy() for part in (~held, held)
        )
        groups = np.arange(int((~held).sum())).repeat(quality.size(1))
        for level in range(quality.size(2)):
            fitted = model(groups).fit(
                seen, quality[~held][..., level].flatten().numpy()
            )
            found = torch.from_numpy(fitted.predict(asked))
            predicted[held, :, level] = found.reshape(-1, quality.size(1))
    return predicted


def explained(
    predicted: torch.Tensor, quality: torch.Tensor
) -> list[float | None]:
    """R² of each level's predictions.

    Args:
        predicted (torch.Tensor): Predictions with shape (n, R, L).
        quality (torch.Tensor): Quality of the same shape.

    Returns:
        list[float | None]: One per level: 1 at best, 0 for a constant, None
        where the level's quality does not vary.
    """
    errors = (quality - predicted).square().sum((0, 1))
    scatter = (quality - quality.mean((0, 1))).square().sum((0, 1))
    return [
        float(1 - error / total) if total > 0 else None
        for error, total in zip(errors, scatter, strict=True)
    ]


def compare_rivals(
    quality: torch.Tensor,
    costs: torch.Tensor,
    lambda_cost: float,
    folds: torch.Tensor,
    predictions: Mapping[str, torch.Tensor],
) -> dict[str, Rival]:
    """Compares ways of choosing on images that they were not fitted on.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        lambda_cost (float): Price of all levels' cost.
        folds (torch.Tensor): The fold of each image, of shape (n,).
        predictions (Mapping[str, torch.Tensor]): What
            :func:`predict_held_out` found, by name.

    Returns:
        dict[str, Rival]: By name: all levels, the best fixed set of the
        images outside the fold, the sets that each prediction finds best, and
        the best set of each image on its other draws and on the draw itself.
    """
    worth = worth_of(quality, costs, lambda_cost)
    fixed = torch.zeros_like(worth, dtype=torch.bool)
    for fold in folds.unique():
        held = folds == fold
        fixed[held] = above_price(worth[~held].mean((0, 1)))
    prices = lambda_cost * costs
    choices = {
        'all levels': torch.ones_like(fixed),
        'best fixed set': fixed,
        **{
            name: above_price(predicted / deviation(quality) - prices)
            for name, predicted in predictions.items()
        },
        "best of the image's other draws": above_price(other_draws(worth)),
        'best of the draw itself': above_price(worth),
    }
    reference = (worth * fixed).sum(2)
    rivals = {}
    for name, chosen in choices.items():
        gains = (worth * chosen).sum(2) - reference
        rivals[name] = Rival(
            worth=mean_worth(worth, chosen),
            gain=float(gains.mean()),
            interval=interval(gains),
            cost=float((chosen.double() @ costs).mean()),
        )
    return rivals


def remember(earlier: Sequence[Signal], now: Signal) -> torch.Tensor:
    """Predicts quality by that of the same images at earlier checkpoints.

    Only other draws of the image are looked at, as a run sees other ones.

    Args:
        earlier (Sequence[Signal]): Earlier measurements of the images.
        now (Signal): The one to predict, with R at least 2 draws.

    Returns:
        torch.Tensor: Predictions of shape (n, R, L): of k values known of an
        image and level, their mean drawn by 1 / (k + 1) to the level's.
    """
    shape = (int(now.images.max()) + 1, *now.quality.shape[1:])
    total, number = torch.zeros(2, *shape, dtype=now.quality.dtype)
    for signal in earlier:
        inside = signal.images < len(total)
        values = signal.quality[inside] / deviation(signal.quality)
        others = values.sum(1, keepdim=True) - values
        total[signal.images[inside]] += others
        number[signal.images[inside]] += values.size(1) - 1
    level = total.sum((0, 1)) / number.sum((0, 1)).clamp(min=1)
    total, number = total[now.images], number[now.images]
    predicted = (total + level) / (number + 1)
    return predicted * deviation(now.quality)
