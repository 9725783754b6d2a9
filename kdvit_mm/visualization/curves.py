"""Curves of training runs, from mmengine's json logs."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt


def read_scalars(work_dir: str | Path) -> list[dict[str, float]]:
    """Reads what mmengine logged in a work directory, resumed runs included.

    Args:
        work_dir (str | Path): The work directory of a run.

    Returns:
        list[dict[str, float]]: One dictionary a logged step, oldest first; a
        step that a resumed run repeated is there once.
    """
    records: dict[tuple, dict[str, float]] = {}
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            # Validation records have no loss, and a step of their own.
            records['loss' in record, record['step']] = record
    return [records[key] for key in sorted(records, key=lambda k: k[1])]


def _sum_losses(record: dict[str, float], distill: bool) -> float | None:
    parts = [
        value
        for key, value in record.items()
        if 'loss' in key
        and key not in ('loss', 'base_loss')
        and key.startswith('distill.') == distill
    ]
    return sum(parts) if parts else record.get('loss')


def plot_runs(
    runs: Mapping[str, str | Path], metric: str, file: str | Path
) -> None:
    """Plots task loss, distill loss and a metric of several runs.

    Args:
        runs (Mapping[str, str | Path]): Work directory by the name that the
            plot gives it.
        metric (str): Logged key of the metric, such as ``'mIoU'``.
        file (str | Path): Picture file to write.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), tight_layout=True)
    for name, work_dir in runs.items():
        records = read_scalars(work_dir)
        trained = [r for r in records if 'loss' in r]
        steps = [r['step'] for r in trained]
        task = [_sum_losses(r, distill=False) for r in trained]
        axes[0].plot(steps, task, label=name)
        if any(key.startswith('distill.') for r in trained for key in r):
            distill = [_sum_losses(r, distill=True) for r in trained]
            axes[1].plot(steps, distill, label=name)
        tested = [r for r in records if metric in r]
        axes[2].plot(
            [r['step'] for r in tested],
            [r[metric] for r in tested],
            marker='o',
            label=name,
        )
    titles = ('task loss', 'distill loss', metric)
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel='iteration')
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    axes[2].set_xlabel('epoch or iteration')
    figure.savefig(file, dpi=110)
    plt.close(figure)
