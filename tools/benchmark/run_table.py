"""Runs methods x seeds and writes their table as Markdown, CSV and JSON.

The table file names the configs; docs/benchmark.md describes it. A finished
cell is not run again, here or where its record is, an interrupted one is
resumed: after a crash or Ctrl-C the same command goes on.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.benchmark.pool import make_slots
from kdvit_mm.benchmark.run import TableRun
from kdvit_mm.engine.stages import RecipeError, StageFailed
from kdvit_mm.processes import Stopped, stop_on_signals


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('table', help='YAML file of the table')
    parser.add_argument(
        '--out', help='output folder; default work_dirs/benchmark/<table>'
    )
    parser.add_argument(
        '--results',
        help="folder of what is kept of the table; default the table's own, "
        'or the output folder',
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
        '--budget',
        type=float,
        metavar='HOURS',
        help='run the cells that fit into this time, and say what is left',
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


def main() -> None:
    """Runs, measures and reports."""
    stop_on_signals()
    args = parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        run = TableRun(
            args.table,
            out=args.out,
            results=args.results,
            data_root=args.data_root,
        )
        if not args.report_only:
            run.train(
                make_slots(args.gpus, args.jobs),
                names=args.rows,
                shard=args.shard,
                timing_rounds=args.timing_rounds,
                budget=args.budget,
            )
        markdown = run.report()
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
    print(f'\n{markdown}\nIn {run.folder}: {run.table.file.stem}.*')
    if run.failed:
        sys.exit(f'Failed: {"; ".join(map(str, run.failed))}')


if __name__ == '__main__':
    main()
