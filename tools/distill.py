"""Distils a pair of plain configs in one command.

``python tools/distill.py STUDENT.py --teacher TEACHER.py --method METHOD``
writes a config, examines it, trains it and exports the student. See
``docs/distill_command.md``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
import warnings
from pathlib import Path

from mmengine.config import DictAction

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.autodistill import build_distillation
from kdvit_mm.processes import (
    Stopped,
    end_children,
    start_child,
    stop_on_signals,
)

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'student', help="the student's config: a file or mmdet::name.py"
    )
    parser.add_argument(
        '--teacher', required=True, help="the teacher's config, likewise"
    )
    parser.add_argument(
        '--teacher-ckpt', help="file or URL of the teacher's checkpoint"
    )
    parser.add_argument(
        '--method', required=True, help='such as fgd; a wrong one lists all'
    )
    parser.add_argument(
        '--auto-weight',
        action='store_true',
        help="move each loss_weight while it trains so that the loss's "
        "gradient is about as long as the task's",
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='stop after the config'
    )
    parser.add_argument(
        '--work-dir',
        help='folder for config, checkpoints and student; '
        'work_dirs/METHOD_TEACHER_STUDENT if not given',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help="changes to the config, as key=value: the student's keys, or "
        "model.… for the distillation's",
    )
    return parser.parse_args()


def run(tool: str, *args: str | Path) -> None:
    """Runs one of the tools; exits with its status if it fails."""
    print(f'\n== {tool}', flush=True)
    child = start_child([sys.executable, str(TOOLS / tool), *map(str, args)])
    try:
        status = child.wait()
    finally:
        end_children(child)
    if status:
        sys.exit(status)


def main() -> None:
    """Makes the config and trains it."""
    args = parse_args()
    stop_on_signals()
    # The doctor says what matters of these.
    warnings.simplefilter('ignore')
    name = '_'.join(
        (args.method, Path(args.teacher).stem, Path(args.student).stem)
    )
    folder = Path(args.work_dir or f'work_dirs/{name}')
    config = folder / f'{name}.py'
    try:
        build_distillation(
            args.student,
            args.teacher,
            args.method,
            args.teacher_ckpt,
            auto_weight=args.auto_weight,
            cfg_options=args.cfg_options,
            out=config,
        )
        print(f'The distillation is in {config}.')
        if args.dry_run:
            return
        run('analysis/doctor.py', config)
        run('train.py', config)
        last = (folder / 'train' / 'last_checkpoint').read_text().strip()
        student = folder / 'student.pth'
        run('model_converters/export_student.py', last, student)
        print(f'The student is in {student}.')
    except ConfigError as error:
        print('\n'.join(error.args), file=sys.stderr)
        sys.exit(2)
    except Stopped as signal:
        sys.exit(signal.status)


if __name__ == '__main__':
    main()
