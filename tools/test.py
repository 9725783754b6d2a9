"""Evaluates a checkpoint: of a distillation or of an ordinary model."""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import kdvit_mm  # noqa: F401  mends the stack before anything is built


def parse_args() -> argparse.Namespace:
    """Reads the command line, as OpenMMLab's ``tools/test.py`` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', help='pickle file for all predictions')
    parser.add_argument(
        '--show-dir', help='folder for pictures of the predictions'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override config entries: key=value, nested keys with dots, '
        'lists as key="[a,b]" without spaces',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out needs a .pkl file, but got {args.out}')
    return args


def save_pictures(cfg: Config, folder: str) -> None:
    """Lets the config's visualization hook write into ``folder``."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        sys.exit('--show-dir needs default_hooks.visualization in the config.')
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, out_dir=folder)
    elif cfg.get('default_scope') == 'mmseg':
        hook.update(draw=True)
        cfg.visualizer.save_dir = folder
    else:
        hook.update(draw=True, test_out_dir=folder)


def main() -> None:
    """Builds the runner from the config and tests."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    cfg.load_from = args.checkpoint
    if args.show_dir:
        save_pictures(cfg, args.show_dir)

    runner_type = cfg.get('runner_type')
    runner = RUNNERS.build(cfg) if runner_type else Runner.from_cfg(cfg)
    if args.out:
        dump = DumpResults(out_file_path=args.out)
        runner.test_evaluator.metrics.append(dump)
    runner.test()


if __name__ == '__main__':
    main()
