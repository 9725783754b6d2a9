"""All statistics of a measurement."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdvit_mm.selection.analysis.measurement import Signal
from kdvit_mm.selection.analysis.rivals import (
    Rival,
    boosting,
    compare_rivals,
    explained,
    predict_held_out,
    remember,
    ridge,
    split_images,
)
from kdvit_mm.selection.analysis.statistics import (
    Components,
    Headroom,
    LevelSummary,
    find_headroom,
    summarise_levels,
    variance_components,
)


@dataclass
class Report:
    """What level_signal says about one state of a student.

    Attributes:
        num_images (int): Number of images, n.
        num_excluded (int): Images left out.
        levels (list[LevelSummary]): One per level.
        components (Components): Variance components.
        headroom (list[Headroom]): One per price.
        r2 (dict[str, list[float | None]]): R² per level by prediction.
        rivals (dict[float, dict[str, Rival]]): Ways of choosing by price.
    """

    num_images: int
    num_excluded: int
    levels: list[LevelSummary]
    components: Components
    headroom: list[Headroom]
    r2: dict[str, list[float | None]]
    rivals: dict[float, dict[str, Rival]]


def analyse(
    signal: Signal,
    prices: Sequence[float],
    held_out: float,
    seed: int = 0,
    earlier: Sequence[Signal] = (),
) -> Report:
    """Computes all statistics of a measurement.

    Args:
        signal (Signal): The measurement.
        prices (Sequence[float]): Prices λ of all levels' cost.
        held_out (float): Share of images that are held out at a time.
        seed (int): Seed of the split. Defaults to 0.
        earlier (Sequence[Signal]): Measurements of the same images at earlier
            checkpoints. Defaults to none.

    Returns:
        Report: The statistics.
    """
    quality, costs = signal.quality, signal.costs
    folds = split_images(len(quality), held_out, seed)
    predictions = {
        f'{source}, {model.__name__}': predict_held_out(
            features, quality, folds, model
        )
        for source, features in (
            ('state', signal.state),
            ('ground truth', signal.truth),
        )
        for model in (ridge, boosting)
    }
    if earlier:
        predictions['memory of earlier checkpoints'] = remember(
            earlier, signal
        )
    return Report(
        num_images=len(quality),
        num_excluded=signal.num_excluded,
        levels=summarise_levels(quality, costs),
        components=variance_components(quality),
        headroom=[find_headroom(quality, costs, x) for x in prices],
        r2={name: explained(x, quality) for name, x in predictions.items()},
        rivals={
            x: compare_rivals(quality, costs, x, folds, predictions)
            for x in prices
        },
    )
