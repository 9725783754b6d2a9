"""Trains a config: a student alone, a teacher or a distillation."""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from kdvit_mm.engine.optim import DOTAmpOptimWrapper, DOTOptimWrapper
from kdvit_mm.processes import (
    Stopped,
    leave_process_group,
    stop_on_signals,
)

#: Types of mixed precision by types of optimizer wrappers.
MIXED_PRECISION = {
    OptimWrapper: 'mmengine.AmpOptimWrapper',
    AmpOptimWrapper: 'mmengine.AmpOptimWrapper',
    DOTOptimWrapper: 'kdvit_mm.DOTAmpOptimWrapper',
    DOTAmpOptimWrapper: 'kdvit_mm.DOTAmpOptimWrapper',
}


def parse_args() -> argparse.Namespace:
    """Reads the command line, as OpenMMLab's ``tools/train.py`` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--amp', action='store_true', help='train with mixed precision'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or without a value from the '
        'newest intact one of the work dir',
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
    return args


def use_amp(cfg: Config) -> None:
    """Turns the config's optimizer wrapper into its mixed precision form."""
    wrapper = cfg.get('optim_wrapper') or {}
    # Several optimizers have a constructor and no type.
    default = 'OptimWrapper' if 'optimizer' in wrapper else 'none'
    kind = wrapper.get('type', default)
    found = OPTIM_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    if found not in MIXED_PRECISION:
        sys.exit(
            '--amp needs optim_wrapper.type "OptimWrapper" or '
            '"kdvit_mm.DOTOptimWrapper", but the config has '
            f'"{getattr(kind, "__name__", kind)}".'
        )
    wrapper['type'] = MIXED_PRECISION[found]
    wrapper.setdefault('loss_scale', 'dynamic')


def enable_lr_scaling(cfg: Config) -> None:
    """Turns on the scaling that the config prepares."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        sys.exit(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in '
            'the config: the total batch size that its lr was chosen for.'
        )
    cfg.auto_scale_lr.enable = True


def build_runner(args: argparse.Namespace) -> Runner:
    """Builds what the command line asks for."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    if args.amp:
        use_amp(cfg)
        if get_device() in ('cpu', 'mps'):
            sys.exit(
                "--amp needs a GPU: mmengine's AmpOptimWrapper does not train "
                f'on the device "{get_device()}". Leave --amp out here.'
            )
    if args.auto_scale_lr:
        enable_lr_scaling(cfg)
    if args.resume == 'auto':
        # Where there is nothing to resume, the config's load_from counts.
        args.resume = find_latest_checkpoint(cfg.work_dir)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = args.resume
    runner_type = cfg.get('runner_type')
    return RUNNERS.build(cfg) if runner_type else Runner.from_cfg(cfg)


def main() -> None:
    """Builds the runner from the config and trains."""
    stop_on_signals()
    runner = None
    try:
        runner = build_runner(parse_args())
        runner.train()
        leave_process_group()
    except (Stopped, SyntaxError) as error:
        # mmengine takes a signal while it formats a checkpoint's config for a
        # mistake in the config.
        signal = error.__context__ if isinstance(error, SyntaxError) else error
        if not isinstance(signal, Stopped):
            raise
        if runner is None:
            print('Stopped before the training began.')
        else:
            runner.logger.info(
                f'Stopped by {signal} at epoch {runner.epoch + 1}, iteration '
                f'{runner.iter}. The same command with --resume goes on from '
                f'the newest checkpoint in {runner.work_dir}.'
            )
        sys.exit(signal.status)


if __name__ == '__main__':
    main()
