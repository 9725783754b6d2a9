"""Plots which pyramid levels runs with a LevelSelectionHook chose.

From ``levels.jsonl`` (the hook's ``dump=True``) and the log of each work
directory: selection rates by number and size of the objects and over the
training, regret, cost and GradNorm weights; from all of them together,
quality over cost. With ``--config``, ``--checkpoint`` and ``--images``:
pictures with the levels chosen for them. See ``docs/level_selection.md``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from kdvit_mm.analysis.configs import (
    build_algorithm,
    build_dataloader,
    load_trained,
)
from kdvit_mm.datasets.preparation import data_options
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.selection.analysis import selected_loss_config
from kdvit_mm.selection.plots import (
    NothingToPlot,
    known_quality,
    last_decisions,
    operation,
    plot_frontier,
    plot_image,
    plot_rates,
    plot_scalars,
    plot_selection,
    rates_by_count,
    rates_by_size,
    read_decisions,
)
from kdvit_mm.selection.probes import level_benefits
from kdvit_mm.visualization.curves import read_scalars


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', type=Path)
    parser.add_argument(
        '--out',
        type=Path,
        help='folder for the plots; plots/ in the work directory, or in what '
        'several have in common',
    )
    parser.add_argument('--config', help='for pictures: a config')
    parser.add_argument('--checkpoint', help='one of its checkpoints')
    parser.add_argument(
        '--images', nargs='+', help='ids of images, as in levels.jsonl'
    )
    parser.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help='where the images are',
    )
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='changes to the config, as key=value',
    )
    args = parser.parse_args()
    given = [args.config, args.checkpoint, args.images]
    if any(given) and not all(given):
        parser.error('--config, --checkpoint and --images go together')
    for folder in args.work_dirs:
        if not folder.is_dir():
            parser.error(f'{folder} is not a folder')
    return args


class Plots:
    """Writes plots into a folder, and says what was left out.

    Args:
        out (Path): The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.count = 0

    def add(self, name: str, draw: Callable[[], Figure]) -> None:
        """Draws and writes a plot, unless there is nothing to plot.

        Args:
            name (str): File name without suffix.
            draw (Callable): Makes it.
        """
        file = self.out / f'{name}.png'
        try:
            figure = draw()
        except NothingToPlot as reason:
            print(f'left out {file}: {reason}')
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)
        self.count += 1
        print(file)


def plot_run(plots: Plots, folder: str, work_dir: Path) -> None:
    """Plots one run."""

    def late() -> list[dict]:
        return last_decisions(read_decisions(work_dir))

    def scalars(prefix: str, title: str, why_absent: str) -> Figure:
        return plot_scalars(
            read_scalars(work_dir), f'levels/{prefix}', title, why_absent
        )

    for name, draw in {
        'selection_by_count': lambda: plot_rates(
            rates_by_count(late()), 'objects in the image', 'images'
        ),
        'selection_by_size': lambda: plot_rates(
            rates_by_size(late()), 'root of the area of an object', 'objects'
        ),
        'selection_over_training': lambda: plot_selection(
            read_decisions(work_dir)
        ),
        'regret': lambda: scalars(
            'regret_',
            'regret against the best set of each image, in deviations',
            'no regret in the log. Train with probe_interval above 0.',
        ),
        'held_out_regret': lambda: scalars(
            'held_out_regret_',
            'regret on held-out images, in deviations',
            'no regret of held-out images in the log. Train with a '
            'probe_dataloader.',
        ),
        'cost': lambda: scalars(
            'cost',
            "share of all levels' cost",
            'no cost in the log (*/vis_data/scalars.json).',
        ),
        'grad_norm_weights': lambda: scalars(
            'weight_',
            'GradNorm weight of each level',
            'no weights in the log. Train with grad_norm in the '
            'SelectedLevelsLoss.',
        ),
    }.items():
        plots.add(f'{folder}/{name}', draw)


def saved_selector(work_dir: Path) -> dict:
    """Config of the selector from the config saved with a run."""
    files = [*work_dir.glob('*.py'), *work_dir.glob('*/vis_data/config.py')]
    if not files:
        raise NothingToPlot(
            f'{work_dir} has no saved config to read lambda_cost from.'
        )
    newest = max(files, key=lambda file: file.stat().st_mtime)
    # The user's own modules need not be there.
    cfg = Config.fromfile(newest, import_custom_modules=False)
    return selected_loss_config(cfg).selector


def _class_name(kind: str | type) -> str:
    name = kind if isinstance(kind, str) else kind.__name__
    return name.rpartition('.')[2]


def draw_frontier(runs: dict[str, Path]) -> Figure:
    """Draws quality over cost of all runs that have both."""
    found: dict[str, tuple[dict, list[dict]]] = {}
    for name, work_dir in runs.items():
        try:
            decisions = last_decisions(read_decisions(work_dir))
            if np.isnan(known_quality(decisions)).all():
                raise NothingToPlot(f'no quality of {work_dir} is known.')
            found[name] = saved_selector(work_dir), decisions
        except NothingToPlot as reason:
            print(f'not in quality_cost_frontier: {reason}')
    if not found:
        raise NothingToPlot('no run is left.')
    known = [known_quality(decisions) for _, decisions in found.values()]
    # One unit for all runs.
    deviation = float(np.nanstd(np.concatenate([x.ravel() for x in known])))
    return plot_frontier(
        [
            operation(
                name,
                _class_name(selector['type']),
                selector.get('lambda_cost', 0.0),
                decisions,
                deviation or 1.0,
            )
            for name, (selector, decisions) in found.items()
        ]
    )


def plot_images(plots: Plots, args: argparse.Namespace) -> None:
    """Plots the images that were asked for."""
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(data_options(Path(args.config), args.data_root))
    cfg.merge_from_dict(args.cfg_options)
    selected_loss_config(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataloader = build_dataloader(cfg, args.split)
    algorithm = build_algorithm(cfg, init_student=False)
    missing = load_trained(algorithm, args.checkpoint)
    lacking = [key for key in missing if '.selector.' in key]
    if lacking:
        raise ValueError(
            f'{args.checkpoint} has no selector ({lacking[0]}): it is of a '
            'student alone. Give a checkpoint of the distillation.'
        )
    for image, index in find_images(dataloader, args.images).items():
        draw = partial(draw_image, algorithm, dataloader, index)
        plots.add(f'image_{image}', draw)


def find_images(dataloader: DataLoader, ids: Sequence[str]) -> dict[str, int]:
    """Finds images in a data set by their ids."""
    dataset: Any = dataloader.dataset
    index = {
        str(dataset.get_data_info(i)['img_id']): i for i in range(len(dataset))
    }
    unknown = [image for image in ids if image not in index]
    if unknown:
        raise ValueError(
            f'--images: no image of the split has the id {unknown[0]}; there '
            f'are such as {[*index][:5]}.'
        )
    return {image: index[image] for image in ids}


def draw_image(
    algorithm: BaseModel, dataloader: DataLoader, index: int
) -> Figure:
    """Draws an image with what the selector chooses for it."""
    # The same augmentation whenever it is drawn.
    with isolated_rng(0):
        data = dataloader.collate_fn([dataloader.dataset[index]])
    plan, outcome = level_benefits(algorithm, data)
    maps = {'student': outcome.state.student, 'teacher': outcome.state.teacher}
    boxes = data['data_samples'][0].gt_instances.bboxes
    # Loaded as BGR, and made float by some augmentations.
    pixels = data['inputs'][0].flip(0).permute(1, 2, 0).clamp(0, 255)
    return plot_image(
        pixels.byte().numpy(),
        getattr(boxes, 'tensor', boxes).numpy(),
        {
            name: [x[0].detach().abs().mean(0).numpy() for x in levels]
            for name, levels in maps.items()
        },
        plan.levels[0].tolist(),
        [
            f'level {level}\np {probability:.2f}, q {quality:.1e}'
            for level, (probability, quality) in enumerate(
                zip(plan.probabilities[0], outcome.quality[0], strict=True)
            )
        ],
    )


def main() -> None:
    """Plots all that there are data for."""
    args = parse_args()
    work_dirs = [folder.resolve() for folder in args.work_dirs]
    common = Path(os.path.commonpath(work_dirs))
    runs = {str(folder.relative_to(common)): folder for folder in work_dirs}
    if len(runs) == 1:
        runs = {common.name: common}
    plots = Plots(args.out or common / 'plots')
    try:
        for name, folder in runs.items():
            plot_run(plots, name if len(runs) > 1 else '.', folder)
        plots.add('quality_cost_frontier', lambda: draw_frontier(runs))
        if args.images:
            plot_images(plots, args)
    except (OSError, ValueError) as error:
        sys.exit(f'plot_levels: {error}')
    if not plots.count:
        sys.exit('plot_levels: there was nothing to plot.')


if __name__ == '__main__':
    main()
