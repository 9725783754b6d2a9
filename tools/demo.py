"""Distils a small model and shows the results.

Trains the student alone and the student distilled, with one seed and one
schedule, evaluates both and the teacher, exports the student and leaves a
table, curves and pictures in ``work_dirs/demo``. A teacher that does not come
with the package is trained first; with ``--train-teacher``, any. Run again, it
goes on where it was interrupted. With ``--method rl`` there are plots of the
chosen levels, too.
"""

import kdvit_mm  # isort: skip  (before torch: its threads)

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.runner import Runner
from prettytable import PrettyTable, TableStyle

from kdvit_mm.analysis.doctor import count_flops
from kdvit_mm.catalog import methods, procedures
from kdvit_mm.datasets.preparation import data_options, prepare_data
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.engine.stages import (
    RecipeError,
    Stage,
    StageFailed,
    run_stages,
    write_options,
)
from kdvit_mm.models.utils.student_config import is_distillation
from kdvit_mm.processes import Stopped, stop_on_signals
from kdvit_mm.visualization import draw_sample, plot_grid, plot_runs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'demo'
PACKAGED = Path(kdvit_mm.__file__).parent / 'weights'
RECIPE = ROOT / 'configs' / 'recipes' / 'demo.yml'


class Recipe(NamedTuple):
    """Configs of a demo, and the metrics to show by their logged keys."""

    teacher: str
    student: str
    distilled: str
    metrics: dict[str, str]


TASKS = {'det': 'Detection', 'seg': 'Segmentation', 'cls': 'Classification'}
DEFAULTS = {'det': 'pkd', 'seg': 'cwd', 'cls': 'kd'}
# Of mmrazor's own class, which is no method of this package.
MMRAZOR = {
    'digits': 'mmrazor-cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96',
    'bccd': 'mmrazor-cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_16e_bccd-320',
}
METRICS = {
    'det': {'mAP': 'coco/bbox_mAP', 'mAP50': 'coco/bbox_mAP_50'},
    'seg': {'mIoU': 'mIoU', 'aAcc': 'aAcc'},
    'cls': {'top-1': 'accuracy/top1'},
}
# Parts of a model's config name that its pair's name leaves out.
PARTS = {'det': '_fpn', 'seg': '-d8', 'cls': ''}


def demos(task: str) -> Mapping[str, Mapping[str, str]]:
    """Names of the distillation configs of a task, by method and data."""
    found: dict[str, Mapping[str, str]] = {}
    for known in (methods(TASKS[task]), procedures(TASKS[task])):
        for method in known.values():
            found |= method.demos
    return found | ({'mmrazor-cwd': MMRAZOR} if task == 'det' else {})


def find_recipe(task: str, data: str, method: str) -> Recipe:
    """Finds the configs of a demo.

    Args:
        task (str): One of ``TASKS``.
        data (str): Name of a data set.
        method (str): Name of a method.

    Returns:
        Recipe: The configs.

    Raises:
        ValueError: If there is no such demo.
    """
    found = demos(task)
    if method not in found:
        raise ValueError(
            f'there is no {task} demo of "{method}", only of '
            f'{", ".join(found)}'
        )
    if data not in found[method]:
        raise ValueError(
            f'the {task} demo of "{method}" is not on {data}, but on '
            f'{", ".join(found[method])}'
        )
    distilled = found[method][data]
    # <method>_<where>_<teacher>_<student>_<schedule>_<data>
    *pair, schedule, images = distilled.split('_')[2:]
    teacher, student = (
        f'{"_".join(side)}{PARTS[task]}'
        for side in (pair[: len(pair) // 2], pair[len(pair) // 2 :])
    )
    # A teacher has a schedule of its own.
    (config,) = CONFIGS.glob(f'{teacher}_*_{images}.py')
    student = f'{student}_{schedule}_{images}'
    return Recipe(config.stem, student, distilled, METRICS[task])


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=[*TASKS], default='det')
    parser.add_argument('--data', default='digits', help='name of a data set')
    parser.add_argument(
        '--method',
        help='see configs/demo/README.md; by default '
        + ', '.join(f'{method} for {t}' for t, method in DEFAULTS.items()),
    )
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument('--seed', type=int, default=0, help='of the students')
    parser.add_argument(
        '--train-teacher',
        action='store_true',
        help='train the teacher even if it comes with the package',
    )
    parser.add_argument('--out', default='work_dirs/demo')
    args = parser.parse_args()
    args.method = args.method or DEFAULTS[args.task]
    try:
        args.recipe = find_recipe(args.task, args.data, args.method)
    except ValueError as error:
        parser.error(str(error))
    return args


def evaluate(
    config: Path,
    checkpoint: str | Path,
    work_dir: Path,
    options: dict[str, Any],
) -> tuple[Runner, dict[str, float]]:
    """Evaluates a plain checkpoint on a plain config."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.update(load_from=str(checkpoint), work_dir=str(work_dir))
    cfg.experiment_name = f'{work_dir.name}_{time.time_ns()}'
    cfg.log_level = 'ERROR'
    runner = Runner.from_cfg(cfg)
    return runner, runner.test()


def time_predictions(runners: dict[str, Runner]) -> dict[str, float]:
    """Median seconds of a prediction for one image, models in turn."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(20):
        for name, runner in runners.items():
            batch = pseudo_collate([runner.test_dataloader.dataset[0]])
            start = time.perf_counter()
            runner.model.test_step(batch)
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def make_table(
    runners: dict[str, Runner],
    results: dict[str, dict[str, float]],
    metrics: dict[str, str],
) -> PrettyTable:
    """Table of metrics, parameters, FLOPs and CPU latency."""
    latency = time_predictions(runners)
    table = PrettyTable()
    table.field_names = [
        'model', *metrics, 'parameters (M)', 'FLOPs (G)', 'CPU latency (ms)'
    ]  # fmt: skip
    table.align = 'r'
    for name, runner in runners.items():
        model = runner.model
        batch = pseudo_collate([runner.test_dataloader.dataset[0]])
        flops = count_flops(model, model.data_preprocessor(batch, False))
        table.add_row([
            name,
            *(f'{results[name][key]:.3f}' for key in metrics.values()),
            f'{sum(p.numel() for p in model.parameters()) / 1e6:.3f}',
            '-' if flops is None else f'{flops / 1e9:.3f}',
            f'{latency[name] * 1e3:.1f}',
        ])  # fmt: skip
    return table


def draw_predictions(runners: dict[str, Runner], file: Path) -> None:
    """Ground truth and all models' predictions on four images."""
    rows = []
    dataset = next(iter(runners.values())).test_dataloader.dataset
    for index in range(0, len(dataset), max(1, len(dataset) // 4))[:4]:
        row: list[np.ndarray] = []
        for runner in runners.values():
            visualizer = runner.visualizer
            visualizer.dataset_meta = dataset.metainfo
            batch = pseudo_collate([dataset[index]])
            sample = runner.model.test_step(batch)[0].to('cpu')
            if not row:
                row.append(draw_sample(visualizer, sample, truth=True))
            row.append(draw_sample(visualizer, sample, truth=False))
        rows.append(row)
    plot_grid(rows, ['ground truth', *runners], file)


def plot_levels(
    config: Path,
    checkpoint: Path,
    dataset: BaseDataset,
    options: dict[str, Any],
    out: Path,
) -> None:
    """Plots the choice of levels, and what was chosen on two images."""
    images = [dataset.get_data_info(i)['img_id'] for i in (0, 1)]
    command = [
        sys.executable, str(ROOT / 'tools' / 'analysis' / 'plot_levels.py'),
        str(checkpoint.parent), '--out', str(out),
        '--config', str(config), '--checkpoint', str(checkpoint),
        '--split', 'test', '--images', *map(str, images),
        '--cfg-options', *write_options(options),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def adopt_packaged(teacher: Stage) -> None:
    """Takes the trained teacher that comes with the package, if it does."""
    packaged = PACKAGED / f'{teacher.name}.pth'
    if teacher.finished or not packaged.is_file():
        return
    meta = torch.load(packaged, map_location='cpu', weights_only=True)['meta']
    if meta['fingerprint'] == teacher.fingerprint:
        teacher.adopt(packaged)


def main() -> None:
    """Runs the demo, as long as no signal stops it."""
    stop_on_signals()
    args = parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        run(args)
    except (RecipeError, StageFailed) as error:
        sys.exit(str(error))
    except Stopped as signal:
        print(f'Stopped by {signal}. The same command goes on.')
        sys.exit(signal.status)


def run(args: argparse.Namespace) -> None:
    """Runs the demo from data to pictures."""
    start = time.time()
    method, recipe = args.method, args.recipe
    # Methods share the teacher and the student alone.
    runs = Path(args.out, f'{args.task}_{args.data}_seed{args.seed}')
    out = runs / method
    out.mkdir(parents=True, exist_ok=True)
    try:
        prepare_data(args.data, args.data_root)
    except FileNotFoundError as error:
        sys.exit(str(error))

    config = {
        'teacher': CONFIGS / f'{recipe.teacher}.py',
        'student': CONFIGS / f'{recipe.student}.py',
        'distilled': CONFIGS / f'{recipe.distilled}.py',
    }
    data = data_options(config['teacher'], args.data_root)
    seed = {'randomness.seed': args.seed}
    stages = read_recipe(RECIPE, runs, [*config.values()])
    stage_of = {stage.name: stage for stage in stages}
    trained = {name: stage_of[path.stem] for name, path in config.items()}
    for stage in stages:
        # All students have the same teacher.
        stage.options |= {} if stage is trained['teacher'] else seed
        stage.data |= data
    if not args.train_teacher:
        adopt_packaged(trained['teacher'])
    run_stages(stages)
    distilled = trained['distilled'].checkpoint
    exported = out / 'student_distilled.pth'
    if is_distillation(Config.fromfile(config['distilled'])):
        subprocess.run(
            [
                sys.executable,
                str(ROOT / 'tools/model_converters/export_student.py'),
                distilled, str(exported), '--config', str(config['student']),
            ],
            check=True,
        )  # fmt: skip
    else:
        # The last stage trains the student alone.
        shutil.copyfile(distilled, exported)

    print('\n== evaluation', flush=True)
    runners, results = {}, {}
    for name, plain, checkpoint in (
        ('teacher', config['teacher'], trained['teacher'].checkpoint),
        ('student', config['student'], trained['student'].checkpoint),
        ('distilled', config['student'], exported),
    ):
        runners[name], results[name] = evaluate(
            plain, checkpoint, out / 'evaluation' / name, data | seed
        )
    table = make_table(runners, results, recipe.metrics)
    print(table)
    table.set_style(TableStyle.MARKDOWN)
    (out / 'table.md').write_text(f'{table}\n')
    draw_predictions(runners, out / 'predictions.png')
    plot_runs(
        {
            name: stage.folder
            for name, stage in trained.items()
            if (stage.folder / 'output.log').is_file()
        },
        next(iter(recipe.metrics.values())),
        out / 'curves.png',
    )
    if method == 'rl':
        dataset = runners['teacher'].test_dataloader.dataset
        plot_levels(
            config['distilled'],
            Path(distilled),
            dataset,
            trained['distilled'].all_options(),
            out / 'levels',
        )
    print(
        f'{(time.time() - start) / 60:.1f} minutes. In {out}: table.md, '
        'curves.png, predictions.png and the exported student '
        f'{exported.name}, an ordinary checkpoint for {config["student"]}.'
    )


if __name__ == '__main__':
    main()
