"""Examines a distillation config in a few steps and says what is wrong.

``python tools/analysis/doctor.py CONFIG`` ends with status 1 if the config
cannot train. See ``docs/doctor.md``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence

from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdvit_mm.analysis.doctor import (
    CacheInfo,
    Findings,
    LossInfo,
    ModelInfo,
    diagnose,
)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description='Examines a config.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='changes to the config, as key=value',
    )
    parser.add_argument(
        '--depth', type=int, default=2, help='levels of nested modules to list'
    )
    parser.add_argument(
        '--device', help='where to run; by default where training would'
    )
    return parser.parse_args()


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> Table:
    """Lays out rows of text under a title."""
    result = Table(title=title, title_justify='left')
    for column in columns:
        result.add_column(column, overflow='fold')
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def module_table(side: str, model: ModelInfo) -> Table:
    """Modules of student or teacher with the shapes of their outputs."""
    return table(
        f'{side}: {model.type}',
        ('module (recorder source)', 'type', 'output', 'calls', 'parameters'),
        (
            (m.name, m.type, m.shape or '-', str(m.calls), f'{m.params:,}')
            for m in model.modules
        ),
    )


def size_table(findings: Findings) -> Table:
    """Parameters and FLOPs of both models."""
    sides = [('student', findings.student), ('teacher', findings.teacher)]
    return table(
        'size',
        ('model', 'parameters', 'FLOPs (multiply-adds)', 'image (C, H, W)'),
        (
            (
                side,
                f'{model.params:,}',
                '-' if model.flops is None else f'{model.flops / 1e9:.4g} G',
                str(model.image),
            )
            for side, model in sides
            if model
        ),
    )


def weight_table(findings: Findings) -> Table:
    """Whose weights are loaded from where."""
    return table('weights', ('model', 'loaded from'), findings.weights.items())


def recorder_table(findings: Findings) -> Table:
    """What every recorder found."""
    return table(
        'recorders',
        ('side', 'name', 'source', 'records', 'shapes'),
        (
            (r.side, r.name, r.source, str(r.count), ', '.join(r.shapes))
            for r in findings.recorders
        ),
    )


def loss_table(findings: Findings) -> Table:
    """Values and gradient norms of all losses."""

    def row(loss: LossInfo) -> list[str]:
        numbers = (
            loss.weight,
            loss.value,
            loss.value_ratio,
            loss.unweighted_ratio,
            loss.grad_norm,
            loss.grad_ratio,
        )
        return [
            loss.name,
            *('-' if n is None else f'{n:.4g}' for n in numbers),
        ]

    losses = list(findings.losses)
    if findings.task:
        losses.append(findings.task)
    return table(
        'losses',
        (
            'loss',
            'weight',
            'value',
            'value / task',
            'value / task at weight 1',
            'gradient norm',
            'gradient / task',
        ),
        map(row, losses),
    )


def cache_table(caches: Sequence[CacheInfo]) -> Table:
    """What the caches of the teachers' records give and take."""
    return table(
        'caches',
        (
            'of',
            'hits in the fourth epoch',
            'with batches of one shape',
            'MB per image',
            'GB per epoch',
            'GB kept at most',
            'GB free',
        ),
        (
            (
                cache.teacher,
                f'{cache.hits:.0%}',
                f'{cache.same_pixels:.0%}',
                f'{cache.image_bytes / 1e6:.4g}',
                f'{cache.epoch_bytes / 1e9:.4g}',
                f'{cache.max_bytes / 1e9:.4g}',
                f'{cache.free_bytes / 1e9:.4g}',
            )
            for cache in caches
        ),
    )


def show(findings: Findings) -> None:
    """Prints tables and verdicts."""
    # Without a terminal, rich would squeeze all into 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if findings.student:
        console.print(module_table('student', findings.student))
    if findings.teacher:
        console.print(module_table('teacher', findings.teacher))
        console.print(size_table(findings))
    if findings.weights:
        console.print(weight_table(findings))
    if findings.recorders:
        console.print(recorder_table(findings))
    if findings.losses:
        console.print(loss_table(findings))
    if findings.caches:
        console.print(cache_table(findings.caches))
    if findings.teacher_loss is not None and findings.fresh_loss is not None:
        console.print(
            f"teacher's task loss {findings.teacher_loss:.4g}, of fresh "
            f'models of its architecture {findings.fresh_loss:.4g}'
        )
    for kind, style, messages in (
        ('ERROR', 'bold red', findings.errors),
        ('WARNING', 'yellow', findings.warnings),
    ):
        for message in messages:
            text = Text.assemble((f'{kind}: ', style), message)
            console.print(text, soft_wrap=True)
    if findings.errors:
        console.print('This config cannot train.')
    else:
        count = len(findings.warnings)
        console.print(f'This config can train; warnings: {count}.')


def main() -> int:
    """Runs the examination and returns the exit status."""
    args = parse_args()
    # What matters of these is among the verdicts.
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    findings = diagnose(args.config, args.cfg_options, args.depth, args.device)
    show(findings)
    return findings.exit_status


if __name__ == '__main__':
    sys.exit(main())
