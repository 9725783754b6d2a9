"""``python -m kdvit_mm.compat``: which patches are needed and applied here."""

import inspect

import torch
from rich.console import Console
from rich.table import Table

from kdvit_mm import compat


def main() -> None:
    """Prints the table of patches."""
    table = Table(title=f'kdvit_mm patches on torch {torch.__version__}')
    for column in ('patch', 'what it does', 'needed here?', 'applied?'):
        table.add_column(column, overflow='fold')
    for name in compat.PATCHES:
        patch = compat.patch_module(name)
        summary = (inspect.getdoc(patch) or '').splitlines()[0]
        table.add_row(
            name,
            summary,
            'yes' if patch.needed() else 'no',
            '\n'.join(compat.applied.get(name, [])) or 'no',
        )
    Console().print(table)


if __name__ == '__main__':
    main()
