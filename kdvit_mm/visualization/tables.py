"""Pictures of finished tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BEST = 3


class Interval(Protocol):
    """A mean and half of its interval."""

    @property
    def mean(self) -> float:
        """The mean."""

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width; None if there is none."""


class TableLine(Protocol):
    """What is drawn of a line of a table."""

    name: str
    curves: dict[int, list[tuple[float, float]]]
    against: str | None
    rival: str | None
    step_ratio: float | None

    @property
    def difference(self) -> Interval | None:
        """Its difference to the row it is compared with."""

    @property
    def gap_closed(self) -> Interval | None:
        """That in per cent of the teacher's distance."""


def plot_gaps(lines: Sequence[TableLine], file: str | Path) -> None:
    """Plots how much of the gap to the teacher each method closes.

    Args:
        lines (Sequence[TableLine]): Lines of the table; without one that has
            a gap no file is written.
        file (str | Path): Picture file to write.
    """
    shown = [line for line in lines if line.gap_closed is not None]
    if not shown:
        return
    figure, axis = plt.subplots(
        figsize=(7, 1 + 0.32 * len(shown)), tight_layout=True
    )
    rivals = {line.rival for line in lines}
    for place, line in enumerate(reversed(shown)):
        assert line.gap_closed is not None
        axis.errorbar(
            line.gap_closed.mean,
            place,
            xerr=line.gap_closed.half_width,
            fmt='o',
            capsize=3,
            color='gray' if line.name in rivals else 'tab:blue',
        )
    axis.set_yticks(range(len(shown)), [x.name for x in reversed(shown)])
    axis.axvline(0, color='black', linewidth=0.8)
    axis.set_xlabel('gap to the teacher that is closed, % (95 % interval)')
    axis.grid(axis='x', alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_curves(
    lines: Sequence[TableLine], metric: str, file: str | Path
) -> None:
    """Plots how the students alone and the three best methods learn.

    Curves are means over seeds. A method's steps count as many as a step of
    the student alone fits into them, so that equal places are equal times.

    Args:
        lines (Sequence[TableLine]): Lines of the table; without curves no
            file is written.
        metric (str): Name of the metric.
        file (str | Path): Picture file to write.
    """
    bases = {line.against for line in lines if line.against}
    panels = [line for line in lines if line.name in bases and line.curves]
    if not panels:
        return
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(5.5 * len(panels), 3.8),
        squeeze=False,
        tight_layout=True,
    )
    for axis, base in zip(axes[0], panels, strict=True):
        compared = [line for line in lines if line.against == base.name]
        rivals = {line.rival for line in compared}
        methods = sorted(
            (x for x in compared if x.difference and x.name not in rivals),
            key=lambda x: -x.difference.mean if x.difference else 0,
        )
        alone = [base, *(x for x in compared if x.name in rivals)]
        for line in [*alone, *methods[:BEST]]:
            _plot_curve(axis, line)
        axis.set(xlabel='time, in epochs or iterations of the student alone')
        axis.set_ylabel(metric)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _plot_curve(axis: Axes, line: TableLine) -> None:
    curves = [curve for curve in line.curves.values() if curve]
    if not curves:
        return
    # A seed that was stopped and resumed may have been validated elsewhere.
    steps = sorted({step for curve in curves for step, _ in curve})
    values = np.mean([np.interp(steps, *np.transpose(c)) for c in curves], 0)
    times = np.array(steps) * (line.step_ratio or 1)
    axis.plot(times, values, marker='o', label=line.name)
