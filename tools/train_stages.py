"""Trains the stages of a recipe, each after those whose checkpoints it needs.

docs/stages.md describes the recipe. A finished stage is not run again, an
interrupted one is resumed: after a crash or Ctrl-C the same command goes on.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path

from kdvit_mm.engine.assistants import small_assistants
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.engine.stages import (
    Launcher,
    RecipeError,
    StageFailed,
    run_stages,
)
from kdvit_mm.processes import Stopped, stop_on_signals


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='YAML file of the recipe')
    parser.add_argument(
        'targets',
        nargs='*',
        help='stages to run, with what they need: names, or configs, which '
        'become further stages; all stages of the recipe if not given',
    )
    parser.add_argument(
        '--work-dir', help='output folder; default work_dirs/<recipe>'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none'
    )
    parser.add_argument(
        '--gpus', type=int, help='number of processes with a launcher'
    )
    parser.add_argument('--partition', help="slurm's partition")
    args = parser.parse_args()
    if (args.launcher == 'none') != (args.gpus is None):
        parser.error('a launcher, and no other, needs --gpus')
    if (args.launcher == 'slurm') != (args.partition is not None):
        parser.error('--launcher slurm, and no other, needs --partition')
    return args


def main() -> None:
    """Reads the recipe and runs its stages."""
    stop_on_signals()
    args = parse_args()
    recipe = Path(args.recipe)
    work_dir = args.work_dir or Path('work_dirs', recipe.stem)
    launcher = Launcher(args.launcher, args.gpus or 1, args.partition or '')
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        stages = read_recipe(recipe, work_dir, args.targets)
        for warning in small_assistants(stages):
            print(f'Warning: {warning}', file=sys.stderr)
        run_stages(stages, launcher)
    except RecipeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except StageFailed as error:
        sys.exit(str(error))
    except Stopped as signal:
        print(f'Stopped by {signal}. The same command goes on.')
        sys.exit(signal.status)
    print(f'\n{stages[-1]} has left {stages[-1].checkpoint}.')


if __name__ == '__main__':
    main()
