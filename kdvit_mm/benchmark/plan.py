"""Which cells fit into a budget of time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from kdvit_mm.benchmark.cells import Cell
from kdvit_mm.benchmark.derived import trial_names
from kdvit_mm.benchmark.table import Table
from kdvit_mm.benchmark.timing import StepTime

HOUR = 3600


@dataclass
class Plan:
    """What fits and what is left.

    Attributes:
        budget (float): Seconds.
        fits (dict[Cell, float]): Seconds of the cells that fit.
        left (dict[Cell, float]): Seconds of those that do not.
    """

    budget: float
    fits: dict[Cell, float] = field(default_factory=dict)
    left: dict[Cell, float] = field(default_factory=dict)

    def __str__(self) -> str:
        text = (
            f'{len(self.fits)} cells fit, about '
            f'{sum(self.fits.values()) / HOUR:.2f} of '
            f'{max(self.budget, 0) / HOUR:.2f} hours.'
        )
        if self.left:
            seeds: dict[str, list[str]] = {}
            for cell in self.left:
                seeds.setdefault(cell.name, []).append(str(cell.seed))
            names = (f'{n} ({", ".join(s)})' for n, s in seeds.items())
            text += (
                f' Left are {len(self.left)}, about '
                f'{sum(self.left.values()) / HOUR:.2f} hours: '
                f'{"; ".join(names)}.'
            )
        return text


def estimate_seconds(
    table: Table, cells: Sequence[Cell], timing: Mapping[str, StepTime]
) -> dict[Cell, float | None]:
    """How long cells take.

    Args:
        table (Table): The table.
        cells (Sequence[Cell]): The cells, those that have a result included.
        timing (Mapping[str, StepTime]): What was measured, by row.

    Returns:
        dict[Cell, float | None]: The mean of the row's other cells, or else
        of its trials or of the row it tries for, or else its steps as they
        were measured, with the row of equal time as long as the slowest; None
        if nothing is known of the row.
    """
    trained: dict[str, list[float]] = {}
    for cell in cells:
        record = cell.record(table)
        if record:
            trained.setdefault(cell.name, []).append(record.seconds)
    known = {name: fmean(seconds) for name, seconds in trained.items()}
    for name, step in timing.items():
        known.setdefault(name, step.steps * median(step.seconds))
    for row in table.rows:
        if row.equal_time:
            methods = [r.name for r in table.rows if r.against == row.against]
            times = [known[name] for name in methods if name in known]
            if times:
                known.setdefault(row.name, max(times))
        names = [row.name, *trial_names(table, row.name)]
        same = [known[name] for name in names if name in known]
        for name in names if same else ():
            known.setdefault(name, same[0])
    return {cell: known.get(cell.name) for cell in cells}


def make_plan(
    seconds: Mapping[Cell, float | None], cells: Sequence[Cell], budget: float
) -> Plan:
    """Takes cells in their order for as long as they fit.

    Args:
        seconds (Mapping[Cell, float | None]): How long cells take. Where
            nothing is known, as long as the longest.
        cells (Sequence[Cell]): The cells to run.
        budget (float): Seconds.

    Returns:
        Plan: The first cells fit; the first that does not, and all that
        follow, are left.
    """
    known = [value for value in seconds.values() if value is not None]
    plan = Plan(budget)
    for cell in cells:
        time = seconds[cell]
        if time is None:
            time = max(known, default=0.0)
        fits = not plan.left and sum(plan.fits.values()) + time <= budget
        (plan.fits if fits else plan.left)[cell] = time
    return plan
