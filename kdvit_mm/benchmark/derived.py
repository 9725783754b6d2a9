"""What the tool makes of a table: equal times and chosen weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from kdvit_mm.benchmark.cells import Cell
from kdvit_mm.benchmark.table import Row, Table, reference
from kdvit_mm.engine.stages import read

# Times in a scheduler's config.
TIMES = ('begin', 'end', 'T_max', 'milestones', 'step_size', 'total_steps')


def schedule_length(cfg: Config) -> tuple[str, int]:
    """How long a config trains.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[str, int]: The key, 'max_epochs' or 'max_iters', and its value.
    """
    train_cfg = cfg.train_cfg
    key = 'max_epochs' if train_cfg.get('max_epochs') else 'max_iters'
    return key, train_cfg[key]


def longer_schedule(cfg: Config, ratio: float) -> dict[str, Any]:
    """Config options that train a config for longer.

    Schedulers are stretched, except where they count otherwise than the
    training: a warm-up in iterations stays what it is.

    Args:
        cfg (Config): The config.
        ratio (float): How much longer.

    Returns:
        dict[str, Any]: Values by dotted keys.
    """
    key, length = schedule_length(cfg)
    options: dict[str, Any] = {f'train_cfg.{key}': round(ratio * length)}
    schedulers = cfg.get('param_scheduler') or []
    named = (
        {f'param_scheduler.{i}': one for i, one in enumerate(schedulers)}
        if isinstance(schedulers, list)
        else {'param_scheduler': schedulers}
    )
    for where, scheduler in named.items():
        if scheduler.get('by_epoch', True) != (key == 'max_epochs'):
            continue
        for name in TIMES:
            value = scheduler.get(name)
            if isinstance(value, list):
                options[f'{where}.{name}'] = [round(ratio * v) for v in value]
            elif value:
                options[f'{where}.{name}'] = round(ratio * value)
    return options


def time_ratios(table: Table, ratios: Mapping[str, float]) -> dict[str, float]:
    """Training time of each method over that of its baseline.

    Args:
        table (Table): The table.
        ratios (Mapping[str, float]): Time of a training step over that of the
            row compared with, by row.

    Returns:
        dict[str, float]: By row, of those whose step was measured.
    """
    lengths = {
        row.name: schedule_length(read(row.config, row.options))[1]
        for row in table.rows
    }
    return {
        row.name: ratios[row.name] * lengths[row.name] / lengths[row.against]
        for row in table.rows
        if row.against and row.name in ratios
    }


def with_equal_time(table: Table, ratios: Mapping[str, float]) -> Table:
    """Adds a row below each baseline, trained as long as its slowest method.

    Args:
        table (Table): The table.
        ratios (Mapping[str, float]): Time of a training step over that of the
            row compared with, by row.

    Returns:
        Table: The table with these rows, except where a method has not been
        measured yet.
    """
    if not table.equal_time:
        return table
    taken = time_ratios(table, ratios)
    rows: list[Row] = []
    for row in table.rows:
        rows.append(row)
        methods = [r.name for r in table.rows if r.against == row.name]
        if not methods or not taken.keys() >= set(methods):
            continue
        slowest = max(taken[name] for name in methods)
        longer = longer_schedule(read(row.config, row.options), slowest)
        rows.append(
            replace(
                row,
                name=f'{row.name}, equal time',
                baseline=False,
                against=row.name,
                options=row.options | longer,
                equal_time=True,
            )
        )
    return replace(table, rows=rows)


def weight_options(row: Row, factor: float) -> dict[str, Any]:
    """Config options that multiply the weights of a row's distill losses.

    Args:
        row (Row): The row.
        factor (float): What they are multiplied by.

    Returns:
        dict[str, Any]: Values by dotted keys; empty if it distils nothing.
    """
    model = read(row.config, row.options).get('model', {})
    losses = model.get('distiller', {}).get('distill_losses', {})
    return {
        f'model.distiller.distill_losses.{name}.loss_weight': float(
            # Not 0.30000000000000004.
            f'{factor * loss.get("loss_weight", 1):.12g}'
        )
        for name, loss in losses.items()
    }


def trial_name(row: str, factor: float) -> str:
    """Name of the cell that tries a weight.

    Args:
        row (str): The row.
        factor (float): What its weights are multiplied by.

    Returns:
        str: The name.
    """
    return f'{row}, weight x {factor:g}'


def trial_names(table: Table, row: str) -> list[str]:
    """Names of all cells that try weights of a row.

    Args:
        table (Table): The table.
        row (str): The row.

    Returns:
        list[str]: Their names; none without a grid.
    """
    grid = table.weights_grid
    return [trial_name(row, factor) for factor in grid.factors] if grid else []


def weight_trials(table: Table) -> Table:
    """A table of the trials of weights.

    Args:
        table (Table): The table.

    Returns:
        Table: One with the seed of the trials, and a row per method and
        factor; without rows if there is no grid.
    """
    grid = table.weights_grid
    if grid is None:
        return replace(table, rows=[])
    rows = [
        replace(
            row,
            name=trial_name(row.name, factor),
            against=None,
            options=row.options | options,
        )
        for row in table.rows
        for factor in grid.factors
        if (options := weight_options(row, factor))
    ]
    return replace(table, rows=rows, seeds=[grid.seed])


def trial_metrics(
    table: Table, trials: Sequence[Cell]
) -> dict[str, dict[float, float]]:
    """What the trials of weights that are finished have reached.

    Args:
        table (Table): The table.
        trials (Sequence[Cell]): Cells of :func:`weight_trials`.

    Returns:
        dict[str, dict[float, float]]: The metric by row and factor.
    """
    if table.weights_grid is None:
        return {}
    key, scale = table.metric.key, table.metric.scale
    reached = {
        cell.name: scale * record.metrics[key]
        for cell in trials
        if (record := cell.record(table)) and key in record.metrics
    }
    return {
        row.name: {
            factor: reached[name]
            for factor in table.weights_grid.factors
            if (name := trial_name(row.name, factor)) in reached
        }
        for row in table.rows
        if weight_options(row, 1)
    }


def with_weights(
    table: Table, metrics: Mapping[str, Mapping[float, float]]
) -> Table:
    """Gives each method the weight that was best in its trials.

    Args:
        table (Table): The table.
        metrics (Mapping[str, Mapping[float, float]]): Their metric by row and
            factor.

    Returns:
        Table: The table with these weights. Of equally good factors it is the
        first one. A row with a trial missing has the factor None, and so has
        one that goes on from such a row.
    """
    if table.weights_grid is None:
        return table
    rows: list[Row] = []
    for row in table.rows:
        if row.name in metrics:
            tried = metrics[row.name]
            factor = None
            if len(tried) == len(table.weights_grid.factors):
                factor = max(tried, key=lambda f: tried[f])
                options = weight_options(row, factor)
                row = replace(row, options=row.options | options)
            row = replace(row, factor=factor)
        undecided = {above.name for above in rows if above.factor is None}
        if undecided & {*map(reference, row.options.values())}:
            row = replace(row, factor=None)
        rows.append(row)
    return replace(table, rows=rows)
