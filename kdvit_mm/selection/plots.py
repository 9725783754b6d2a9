"""Plots of which pyramid levels were chosen, and what came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

#: Lower bounds of the bins.
COUNT_BINS = (0, 1, 2, 3, 5, 9, 17)
SIZE_BINS = (0, 8, 16, 32, 64, 128, 256, 512)
#: Points of a curve of decisions.
WINDOWS = 40

Decision = dict[str, Any]


class NothingToPlot(ValueError):
    """There are no data for a plot; the text says why."""


@dataclass
class Rates:
    """How often each level was chosen, by bins.

    Attributes:
        labels (list[str]): The bins that are not empty.
        counts (list[int]): What is in each.
        rates (np.ndarray): Share of it that each level was chosen for, of
            shape (bins, L).
    """

    labels: list[str]
    counts: list[int]
    rates: np.ndarray


@dataclass
class Operation:
    """What a run reached.

    Attributes:
        name (str): The run.
        selector (str): Type of its selector.
        lambda_cost (float): Its price of all levels' cost.
        quality (float): Mean over images of the chosen levels' quality.
        cost (float): Mean share of the cost.
    """

    name: str
    selector: str
    lambda_cost: float
    quality: float
    cost: float


def read_decisions(work_dir: str | Path) -> list[Decision]:
    """Reads what ``LevelSelectionHook(dump=True)`` wrote.

    Args:
        work_dir (str | Path): The work directory of a run.

    Returns:
        list[dict]: One decision per image and iteration, oldest first. Those
        of iterations that a resumed run repeated are its own; a last line
        that is not whole is left out.

    Raises:
        NothingToPlot: If there is no decision.
        ValueError: If a line before the last is broken.
    """
    file = Path(work_dir, 'levels.jsonl')
    if not file.is_file():
        raise NothingToPlot(
            f'{file} is not there. Train with dump=True in the '
            'LevelSelectionHook.'
        )
    lines = file.read_text().splitlines()
    decisions: list[Decision] = []
    for number, line in enumerate(lines, 1):
        try:
            decision = json.loads(line)
            now = decision['iter']
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f'{file}: line {number} is not a decision ({error}). Was the '
                'run ended while it wrote, and resumed? Delete this line.'
            ) from error
        if decisions and decisions[-1]['iter'] > now:
            while decisions and decisions[-1]['iter'] >= now:
                decisions.pop()
        decisions.append(decision)
    if not decisions:
        raise NothingToPlot(f'{file} has no decision yet.')
    return decisions


def last_decisions(
    decisions: Sequence[Decision], share: float = 0.25
) -> list[Decision]:
    """The decisions of the last part of a training.

    Args:
        decisions (Sequence[dict]): All of them, oldest first.
        share (float): Share of the iterations. Defaults to 0.25.

    Returns:
        list[dict]: Those of the last part.
    """
    first, last = decisions[0]['iter'], decisions[-1]['iter']
    start = last - share * (last + 1 - first)
    return [decision for decision in decisions if decision['iter'] > start]


def rates_by_count(decisions: Sequence[Decision]) -> Rates:
    """Selection rates by the number of objects in the image.

    Args:
        decisions (Sequence[dict]): The decisions.

    Returns:
        Rates: With the numbers of images.

    Raises:
        NothingToPlot: If the objects of no image are known.
    """
    known = [d for d in decisions if 'sizes' in d]
    return _rates(
        [len(d['sizes']) for d in known],
        [d['levels'] for d in known],
        COUNT_BINS,
    )


def rates_by_size(decisions: Sequence[Decision]) -> Rates:
    """Selection rates of the images that objects of a size are in.

    Args:
        decisions (Sequence[dict]): The decisions.

    Returns:
        Rates: With the numbers of objects. A size is the root of the area.

    Raises:
        NothingToPlot: If no object is known.
    """
    pairs = [
        (size, d['levels']) for d in decisions for size in d.get('sizes', ())
    ]
    sizes, levels = zip(*pairs, strict=True) if pairs else ((), ())
    return _rates(sizes, levels, SIZE_BINS)


def _rates(
    values: Sequence[float],
    levels: Sequence[Sequence[int]],
    bins: Sequence[int],
) -> Rates:
    if not len(values):
        raise NothingToPlot(
            'no objects are known. Map data_samples to the '
            'SelectedLevelsLoss in loss_forward_mappings.'
        )
    index = np.digitize(values, bins) - 1
    chosen = np.asarray(levels, float)
    filled = np.unique(index)
    return Rates(
        labels=[_label(bins, i) for i in filled],
        counts=[int((index == i).sum()) for i in filled],
        rates=np.stack([chosen[index == i].mean(0) for i in filled]),
    )


def _label(bins: Sequence[int], index: int) -> str:
    low = bins[index]
    if index + 1 == len(bins):
        return f'{low}+'
    high = bins[index + 1] - 1
    return f'{low}' if low == high else f'{low}-{high}'


def plot_rates(rates: Rates, what: str, unit: str) -> Figure:
    """Draws selection rates as a table of colours.

    Args:
        rates (Rates): The rates.
        what (str): What the bins are of, such as 'objects in the image'.
        unit (str): What the counts are of, such as 'images'.

    Returns:
        Figure: The plot.
    """
    bins, levels = rates.rates.shape
    figure = Figure((2 + bins, 1.2 + 0.6 * levels), layout='constrained')
    axis = figure.subplots()
    shown = axis.imshow(
        rates.rates.T, vmin=0, vmax=1, cmap='viridis', aspect='auto'
    )
    for (level, index), rate in np.ndenumerate(rates.rates.T):
        colour = 'black' if rate > 0.5 else 'white'
        axis.text(index, level, f'{rate:.2f}', ha='center', color=colour)
    labels = [
        f'{label}\n{count} {unit}'
        for label, count in zip(rates.labels, rates.counts, strict=True)
    ]
    axis.set_xticks(range(bins), labels, fontsize=8)
    axis.set_yticks(range(levels), [f'level {i}' for i in range(levels)])
    axis.set(xlabel=what, title='selection rate')
    figure.colorbar(shown)
    return figure


def plot_selection(decisions: Sequence[Decision]) -> Figure:
    """Draws how often each level was chosen over the training.

    Args:
        decisions (Sequence[dict]): The decisions, oldest first.

    Returns:
        Figure: The plot: a point is the mean over a fortieth of the
        iterations.
    """
    iterations = np.array([d['iter'] for d in decisions])
    chosen = np.array([d['levels'] for d in decisions], float)
    known = np.unique(iterations)
    windows = np.array_split(known, min(WINDOWS, len(known)))
    steps = [window.mean() for window in windows]
    parts = [
        (window[0] <= iterations) & (iterations <= window[-1])
        for window in windows
    ]
    figure, axis = _axis('selection rate of each level', 'share of images')
    for level in range(chosen.shape[1]):
        rates = [chosen[part, level].mean() for part in parts]
        axis.plot(steps, rates, label=f'level {level}')
    axis.set_ylim(-0.02, 1.02)
    axis.legend()
    return figure


def plot_scalars(
    records: Sequence[Mapping[str, float]],
    prefix: str,
    title: str,
    why_absent: str,
) -> Figure:
    """Draws logged numbers over the training.

    Args:
        records (Sequence[Mapping[str, float]]): The log as
            :func:`read_scalars` gives it.
        prefix (str): What the keys begin with; the rest names the curve.
        title (str): Title of the plot.
        why_absent (str): What to say if there are no such keys.

    Returns:
        Figure: The plot: pale what was logged, strong its running mean over
        a twentieth of the records.

    Raises:
        NothingToPlot: If there are no such keys.
    """
    keys = sorted({k for r in records for k in r if k.startswith(prefix)})
    if not keys:
        raise NothingToPlot(why_absent)
    figure, axis = _axis(title, '')
    for key in keys:
        found = [(r['step'], r[key]) for r in records if key in r]
        steps, values = (np.array(x) for x in zip(*found, strict=True))
        window = np.ones(max(1, len(values) // 20))
        # At the ends fewer count.
        mean = np.convolve(values, window, 'same')
        mean = mean / np.convolve(np.ones(len(values)), window, 'same')
        label = key.removeprefix(prefix).strip('_') or key.split('/')[-1]
        (line,) = axis.plot(steps, mean, label=label)
        axis.plot(steps, values, color=line.get_color(), alpha=0.25)
    if len(keys) > 1:
        axis.legend()
    return figure


def known_quality(decisions: Sequence[Decision]) -> np.ndarray:
    """Quality of each decision's levels.

    Args:
        decisions (Sequence[dict]): The decisions.

    Returns:
        np.ndarray: Shape (n, L), NaN where it is not known.
    """
    return np.array([d['quality'] for d in decisions], float)


def operation(
    name: str,
    selector: str,
    lambda_cost: float,
    decisions: Sequence[Decision],
    deviation: float,
) -> Operation:
    """Sums up what a run's decisions reached.

    Args:
        name (str): The run.
        selector (str): Type of its selector.
        lambda_cost (float): Its price of all levels' cost.
        decisions (Sequence[dict]): The decisions that count.
        deviation (float): Standard deviation of quality, the unit.

    Returns:
        Operation: Quality, summed over the chosen levels where it is known,
        and cost, means over the decisions.
    """
    chosen = np.array([d['levels'] for d in decisions], bool)
    quality = np.where(chosen, known_quality(decisions), np.nan)
    quality = quality[~np.isnan(quality).all(1)]
    return Operation(
        name=name,
        selector=selector,
        lambda_cost=lambda_cost,
        quality=float(np.nansum(quality, 1).mean() / deviation),
        cost=float(np.mean([d['cost'] for d in decisions])),
    )


def plot_frontier(operations: Sequence[Operation]) -> Figure:
    """Draws quality over cost, one point per run.

    Args:
        operations (Sequence[Operation]): The runs.

    Returns:
        Figure: The plot.
    """
    figure = Figure((6, 4.5), layout='constrained')
    axis = figure.subplots()
    for selector in dict.fromkeys(o.selector for o in operations):
        own = [o for o in operations if o.selector == selector]
        axis.plot(
            [o.cost for o in own], [o.quality for o in own], 'o',
            label=selector,
        )  # fmt: skip
        for o in own:
            axis.annotate(
                f'  λ {o.lambda_cost:g}  {o.name}  ',
                (o.cost, o.quality),
                fontsize=7,
                ha='left' if o.cost < 0.5 else 'right',
            )
    axis.set(
        xlabel="share of all levels' cost",
        ylabel='quality of the chosen levels, in deviations',
        title='quality and cost',
    )
    axis.margins(0.15)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def plot_image(
    image: np.ndarray,
    boxes: np.ndarray,
    maps: Mapping[str, Sequence[np.ndarray]],
    chosen: Sequence[bool],
    notes: Sequence[str],
) -> Figure:
    """Draws an image with its boxes, its levels' maps and which were chosen.

    Args:
        image (np.ndarray): RGB image of shape (H, W, 3).
        boxes (np.ndarray): Corners of its objects, of shape (n, 4).
        maps (Mapping[str, Sequence[np.ndarray]]): By name of the model a map
            of shape (h, w) per level.
        chosen (Sequence[bool]): Whether each level was chosen.
        notes (Sequence[str]): What to write above each level.

    Returns:
        Figure: The plot: maps of chosen levels have a red frame.
    """
    figure = Figure(
        (2.2 * (1 + len(chosen)), 2.4 * len(maps)), layout='constrained'
    )
    axes = figure.subplots(len(maps), 1 + len(chosen), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in axes[1:, 0]:
        axis.axis('off')
    picture = axes[0, 0]
    picture.imshow(image)
    picture.set_title(f'{len(boxes)} objects', fontsize=8)
    for x1, y1, x2, y2 in boxes:
        picture.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color='lime')
        )
    for row, (name, levels) in zip(axes[:, 1:], maps.items(), strict=True):
        for axis, level in zip(row, levels, strict=True):
            axis.imshow(level)
        row[0].set_ylabel(name)
    for column, is_chosen, note in zip(
        axes[:, 1:].T, chosen, notes, strict=True
    ):
        column[0].set_title(
            ('chosen: ' if is_chosen else '') + note, fontsize=8
        )
        for axis in column:
            axis.spines[:].set(
                color='red' if is_chosen else 'lightgrey', linewidth=3
            )
    return figure


def _axis(title: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure((7, 4), layout='constrained')
    axis = figure.subplots()
    axis.set(title=title, xlabel='iteration', ylabel=ylabel)
    axis.grid(alpha=0.3)
    return figure, axis
