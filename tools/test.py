"""Evaluates a checkpoint: of a distillation or of an ordinary model."""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import copy
import os
import sys
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from kdvit_mm.analysis.configs import model_config
from kdvit_mm.models.ensembles import MERGERS
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.models.utils.student_config import student_config
from kdvit_mm.processes import leave_process_group


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
        '--tta',
        action='store_true',
        help='test-time augmentation, by tta_model and tta_pipeline of the '
        'config or, without these, by flipping',
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


def find_package(cfg: Config) -> str:
    """Finds the package that a config's model, or its student, is of."""
    model = in_own_scope(cfg.model.get('architecture', cfg.model))
    return model.get('_scope_') or cfg.get('default_scope') or ''


def save_pictures(cfg: Config, folder: str) -> None:
    """Lets the config's visualization hook write into ``folder``."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        sys.exit('--show-dir needs default_hooks.visualization in the config.')
    scope = find_package(cfg)
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=folder)
    elif scope == 'mmseg':
        hook.update(draw=True)
        cfg.visualizer.save_dir = folder
    else:
        hook.update(draw=True, test_out_dir=folder)


def use_tta(cfg: Config) -> Config:
    """Tests the model, of a distillation the student, under augmentation.

    Args:
        cfg (Config): The config.

    Returns:
        Config: The config of the test.
    """
    cfg = student_config(cfg)
    scope = find_package(cfg)
    if scope not in MERGERS and not (
        cfg.get('tta_model') and cfg.get('tta_pipeline')
    ):
        sys.exit(
            '--tta needs tta_model and tta_pipeline in the config of a '
            f'model that is not of {", ".join(MERGERS)}.'
        )
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or flipped(
        dataset.pipeline, scope
    )
    tta_model = cfg.get('tta_model') or MERGERS[scope]
    cfg.model = ConfigDict(tta_model, module=model_config(cfg))
    return cfg


def flipped(pipeline: list[ConfigDict], scope: str) -> list[ConfigDict]:
    """Shows every image as it is and mirrored.

    Args:
        pipeline (list[ConfigDict]): The test pipeline.
        scope (str): The package that has its transforms.

    Returns:
        list[ConfigDict]: The pipeline, with annotations as they are.
    """
    steps = copy.deepcopy(pipeline)
    pack = steps.pop()
    if 'meta_keys' in pack:
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
    # Loaded after the flip, which would mirror them as well.
    annotations = [s for s in steps if 'LoadAnnotations' in str(s.get('type'))]
    steps = [step for step in steps if step not in annotations]
    flips = [{'type': f'{scope}.RandomFlip', 'prob': p} for p in (0.0, 1.0)]
    branches = [flips, *([step] for step in annotations), [pack]]
    return [*steps, ConfigDict(type='TestTimeAug', transforms=branches)]


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
    if args.tta:
        cfg = use_tta(cfg)

    runner_type = cfg.get('runner_type')
    runner = RUNNERS.build(cfg) if runner_type else Runner.from_cfg(cfg)
    if args.out:
        dump = DumpResults(out_file_path=args.out)
        runner.test_evaluator.metrics.append(dump)
    runner.test()
    leave_process_group()


if __name__ == '__main__':
    main()
