"""Runs methods x seeds and writes their table as Markdown, CSV and JSON.

The table file names the configs; docs/benchmark.md describes it. A finished
cell is not run again, an interrupted one is resumed: after a crash or Ctrl-C
the same command goes on.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import json
import shlex
import sys
from pathlib import Path

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.benchmark.cells import (
    Cell,
    choose_cells,
    make_cells,
    make_lines,
)
from kdvit_mm.benchmark.pool import Pool, make_slots
from kdvit_mm.benchmark.table import (
    Line,
    Table,
    read_table,
    render_csv,
    render_json,
    render_markdown,
)
from kdvit_mm.benchmark.timing import add_timing, measure
from kdvit_mm.datasets.preparation import prepare_data
from kdvit_mm.engine.stages import (
    RecipeError,
    StageFailed,
    check_unchanged,
    read,
)
from kdvit_mm.processes import Stopped, stop_on_signals

# Data sets that are made or looked for before the first cell.
DATA = {'data/digit_scenes': 'digits', 'data/bccd': 'bccd'}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('table', help='YAML file of the table')
    parser.add_argument(
        '--out', help='output folder; default work_dirs/benchmark/<table>'
    )
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument(
        '--jobs', type=int, default=1, help='cells to run at once'
    )
    parser.add_argument(
        '--gpus', help='such as 0,1: a cell on each; 0,0: two on one'
    )
    parser.add_argument(
        '--shard',
        default='1/1',
        help='i/n: the i-th of n parts, counted from 1, for n machines',
    )
    parser.add_argument(
        '--rows', nargs='+', help='names of the rows and teachers to run'
    )
    parser.add_argument(
        '--timing-rounds',
        type=int,
        default=10,
        help='rounds of the step time measurement; 0 leaves it out',
    )
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='run nothing, write the table of what is there',
    )
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error('--jobs must be at least 1')
    if args.gpus and args.jobs > 1:
        parser.error('--jobs is for one device; --gpus says how many cells')
    part, _, parts = args.shard.partition('/')
    if not (
        part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)
    ):
        parser.error(f'--shard must be i/n with 1 <= i <= n: {args.shard}')
    args.shard = int(part), int(parts)
    args.out = Path(
        args.out or Path('work_dirs', 'benchmark', Path(args.table).stem)
    )
    return args


def prepare(cells: list[Cell], root: str | None) -> None:
    """Makes the embedded data set if it is needed and missing."""
    roots = {str(read(c.config, {}).get('data_root')) for c in cells}
    for name in {DATA.get(found.rstrip('/')) for found in roots} - {None}:
        # What is in a folder of the user's own is not made anew.
        if root is None or not Path(root, 'annotations').is_dir():
            prepare_data(str(name), root)


def write_report(
    table: Table, lines: list[Line], facts: dict[str, str], out: Path
) -> None:
    """Writes table.md, table.csv and table.json, and prints the first."""
    out.mkdir(parents=True, exist_ok=True)
    markdown = render_markdown(table, lines, facts)
    (out / 'table.md').write_text(markdown)
    (out / 'table.csv').write_text(render_csv(table, lines))
    (out / 'table.json').write_text(render_json(table, lines, facts))
    print(f'\n{markdown}\nIn {out}: table.md, table.csv, table.json')


def list_facts(
    table: Table, cells: list[Cell], timing: dict | None
) -> dict[str, str]:
    """What has to be known about how the table came about."""
    arguments = [arg for arg in sys.argv[1:] if arg != '--report-only']
    results = [cell.result for cell in cells]
    facts = {
        'command': '`python tools/benchmark/run_table.py '
        f'{shlex.join(arguments)}`',
        'seeds': ', '.join(map(str, table.seeds)),
        'intervals': "95 %, by Student's t over seeds; differences are "
        'paired by seed',
    }
    if any(results):
        for key in ('machine', 'torch'):
            facts[key] = '; '.join(sorted({r[key] for r in results if r}))
    if timing:
        facts['step time and memory'] = (
            f'a training step, the median of {timing["rounds"]} rounds, '
            f'{timing["device"]}, {timing["threads"]} threads, '
            f'{timing["machine"]}'
        )
    return facts


def main() -> None:
    """Runs, measures and reports."""
    stop_on_signals()
    args = parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    failed: list[Cell] = []
    timing_file = args.out / 'timing.json'
    try:
        table = read_table(args.table)
        root = args.data_root or table.data_root
        cells = make_cells(table, args.out, root)
        check_unchanged(cells)
        if not args.report_only:
            mine = choose_cells(table, cells, args.rows, args.shard)
            prepare(mine, root)
            whole = args.rows is None and args.shard[1] == 1
            slots = make_slots(args.gpus, args.jobs)
            failed = Pool(table, mine, slots).run()
            if args.timing_rounds and whole:
                measure(table, cells, args.timing_rounds, timing_file)
        lines = make_lines(table, cells)
    except (
        RecipeError,
        StageFailed,
        ConfigError,
        FileNotFoundError,
    ) as error:
        sys.exit(str(error))
    except Stopped as signal:
        print(f'Stopped by {signal}. The same command goes on.')
        sys.exit(signal.status)
    timing = None
    if timing_file.is_file():
        timing = json.loads(timing_file.read_text())
        add_timing(table, lines, timing)
    write_report(table, lines, list_facts(table, cells, timing), args.out)
    if failed:
        sys.exit(f'Failed: {"; ".join(map(str, failed))}')


if __name__ == '__main__':
    main()
