"""Searches a student for a teacher, without training.

``python tools/search_student.py CONFIG`` prints the ranking of all students
that were scored, and writes the config of the best one. With ``--check TABLE``
it searches nothing, but compares the score with what the students of a table
of ``tools/benchmark/run_table.py`` have reached. See ``configs/search``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.analysis.student_search import (
    ranking_table,
    search_student,
    write_student,
)
from kdvit_mm.benchmark.run import TableRun
from kdvit_mm.benchmark.student_scores import foretell
from kdvit_mm.engine.stages import RecipeError


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a StudentSearchLoop')
    parser.add_argument(
        '--out', help='file for the best student; default WORK_DIR/student.py'
    )
    parser.add_argument(
        '--work-dir', help='folder of logs; default work_dirs/CONFIG'
    )
    parser.add_argument(
        '--top', type=int, default=10, help='students to print, 10 by default'
    )
    parser.add_argument(
        '--check', metavar='TABLE', help='compare with the results of a table'
    )
    parser.add_argument(
        '--results', help="with --check: folder of them; default the table's"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='changes to the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    """Searches, or checks the score."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    folder = Path(args.work_dir or f'work_dirs/{Path(args.config).stem}')
    cfg.work_dir = str(folder)
    try:
        if args.check:
            out = Path('work_dirs', 'benchmark', Path(args.check).stem)
            run = TableRun(args.check, out=out, results=args.results)
            found = foretell(cfg, run)
            file = run.file('scores.md')
            file.write_text(found.markdown())
            print(f'{found.markdown()}\nIn {file}')
            return
        loop = search_student(cfg)
    except (ConfigError, RecipeError) as error:
        sys.exit(str(error))
    student = Path(args.out or folder / 'student.py')
    write_student(loop.model.mutator, loop.ranking[0], student)
    print(f'{ranking_table(loop.ranking[: args.top])}\nThe best is {student}.')


if __name__ == '__main__':
    main()
