"""Searches a student for a teacher, and writes down what was found."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from prettytable import PrettyTable

from kdvit_mm.analysis.configs import ConfigError, explained
from kdvit_mm.autodistill.text import format_config
from kdvit_mm.engine.loops import StudentSearchLoop
from kdvit_mm.models.utils.config_mutator import ConfigMutator

NUMBERS = ('score', 'relation', 'semantic', 'flops', 'params')


def search_student(cfg: Config) -> StudentSearchLoop:
    """Runs the search of a config.

    Args:
        cfg (Config): The config, with a ``StudentSearchLoop``.

    Returns:
        StudentSearchLoop: The loop, which has the ranking.

    Raises:
        ConfigError: If the config has no such loop, or the search fails.
    """
    kind = str(cfg.get('train_cfg', {}).get('type'))
    if kind.rpartition('.')[2] != 'StudentSearchLoop':
        raise ConfigError(
            f'train_cfg.type is {kind}. Set it to "kdvit_mm.StudentSearchLoop"'
            ', as the configs in configs/search do.'
        )
    with explained('The search fails'):
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner.train_loop


def rounded(number: float) -> str:
    """Writes a number with four digits, or all before the point."""
    return f'{number:.4g}' if abs(number) < 1e4 else f'{number:.0f}'


def ranking_table(ranking: Sequence[Mapping[str, Any]]) -> PrettyTable:
    """Makes a table of scored students, flops and params in millions.

    Args:
        ranking (Sequence[Mapping[str, Any]]): They, as the loop has them.

    Returns:
        PrettyTable: A row for each.
    """
    names = [*ranking[0]['choices']]
    table = PrettyTable(['rank', *names, *NUMBERS], align='r')
    for rank, found in enumerate(ranking, 1):
        choices = [found['choices'][name] for name in names]
        numbers = [rounded(found[key]) for key in NUMBERS]
        table.add_row([rank, *choices, *numbers])
    return table


def write_student(
    mutator: ConfigMutator, found: Mapping[str, Any], out: Path
) -> None:
    """Writes the config of a student that was found.

    Args:
        mutator (ConfigMutator): The mutator that chose it.
        found (Mapping[str, Any]): The student, as the ranking has it.
        out (Path): The file. It inherits from the mutator's config.
    """
    base = mutator.config
    if '::' not in base:
        base = os.path.relpath(base, out.parent)
    model: dict[str, Any] = {}
    for key, value in mutator.changes(found['choices']).items():
        *path, last = key.split('.')
        node = model
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    out.parent.mkdir(parents=True, exist_ok=True)
    choices = ', '.join(f'{k} {v}' for k, v in found['choices'].items())
    out.write_text(
        f'# {choices}: found by tools/search_student.py, score '
        f'{rounded(found["score"])},\n# {rounded(found["flops"])} MFLOPs, '
        f'{rounded(found["params"])} M parameters.\n'
        + format_config({'_base_': base, 'model': model}, {})
    )
