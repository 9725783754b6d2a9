"""Measures whether there is anything to learn for a choice of levels.

For a config with a ``SelectedLevelsLoss`` and checkpoints of its student, or
of the student alone, at several points of training: what each level is worth
to each image, how much of that is the image's own, what the best choice for
each image gains over the best for all, and how much of it can be predicted,
also by what was measured of the image at the checkpoints named before.
See ``docs/level_selection.md``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from prettytable import PrettyTable

from kdvit_mm.analysis.configs import (
    build_algorithm,
    build_dataloader,
    load_trained,
)
from kdvit_mm.datasets.preparation import data_options
from kdvit_mm.selection.analysis import (
    Report,
    Signal,
    analyse,
    measure,
    selected_loss_config,
)

PRICES = (0.0, 0.3, 0.5, 1.0)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a SelectedLevelsLoss')
    parser.add_argument(
        'checkpoints', nargs='+', help='of the config or its student alone'
    )
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument(
        '--draws', type=int, default=2, help='of the augmentation of an image'
    )
    parser.add_argument(
        '--held-out',
        type=float,
        default=0.25,
        help='share of images that are predicted from the others at a time',
    )
    parser.add_argument(
        '--split', choices=['train', 'val', 'test'], default='train'
    )
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument(
        '--level-loss',
        help='config of another distiller, such as '
        'configs/_base_/distillers/fgd_fpn_small.py, whose first loss takes '
        'the place of the level loss',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='changes to the config, as key=value',
    )
    parser.add_argument('--device', default='cpu', help='where to run')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='folder for level_signal.json')
    args = parser.parse_args()
    if args.images < 2 or args.draws < 2:
        parser.error('--images and --draws must be 2 or more')
    if not 0 < args.held_out <= 0.5:
        parser.error('--held-out must be above 0 and at most 0.5')
    return args


def read_config(args: argparse.Namespace) -> tuple[Config, ConfigDict]:
    """Reads the config as the options change it, and its level loss."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(data_options(Path(args.config), args.data_root))
    cfg.merge_from_dict(args.cfg_options)
    loss = selected_loss_config(cfg)
    # The config's selector is not used.
    loss.selector = {'type': 'AllLevels'}
    if args.level_loss:
        distiller = Config.fromfile(args.level_loss).get('distiller', {})
        losses = [*distiller.get('distill_losses', {}).values()]
        if not losses:
            raise ValueError(
                f'--level-loss: {args.level_loss} has no '
                'distiller.distill_losses to take a loss from.'
            )
        # A LevelWise holds the loss of a level.
        loss.loss = losses[0].get('loss', losses[0])
    return cfg, loss.loss


def new_table(title: str, columns: list[str]) -> PrettyTable:
    """An empty table."""
    table = PrettyTable(columns, title=title)
    table.align = 'r'
    table.align[columns[0]] = 'l'
    return table


def level_table(report: Report) -> PrettyTable:
    """Quality of each level."""
    table = new_table(
        'quality of each level',
        ['level', 'mean', 'std', 'positive', "image's share", 'cost'],
    )
    for index, level in enumerate(report.levels):
        table.add_row(
            [
                index,
                f'{level.mean:.2e}',
                f'{level.std:.2e}',
                f'{level.positive:.2f}',
                f'{level.image_share:.2f}',
                f'{level.cost:.4f}',
            ]
        )
    return table


def component_table(report: Report) -> PrettyTable:
    """Variance components of quality."""
    parts = asdict(report.components)
    clamped = parts.pop('clamped')
    total = sum(parts.values())
    table = new_table(
        'variance components of quality', ['source', 'variance', 'share']
    )
    for name, value in parts.items():
        note = ' (below 0, set to 0)' if name in clamped else ''
        share = f'{value / total:.3f}' if total else '-'
        table.add_row([name + note, f'{value:.3e}', share])
    return table


def headroom_table(report: Report) -> PrettyTable:
    """The best set of each image against the best for all."""
    table = new_table(
        'worth of sets, in deviations of quality; honest: found on other '
        'draws of the image',
        ['λ', 'all levels', 'fixed set', 'its cost', 'fixed', 'best',
         'its cost ', 'headroom', 'honest fixed', 'honest best',
         'honest headroom'],
    )  # fmt: skip
    for row in report.headroom:
        table.add_row(
            [
                row.lambda_cost,
                f'{row.all_levels:.3f}',
                ' '.join(map(str, row.fixed_levels)),
                f'{row.fixed_cost:.3f}',
                f'{row.fixed:.3f}',
                f'{row.best:.3f}',
                f'{row.best_cost:.3f}',
                f'{row.headroom:.3f}',
                f'{row.honest_fixed:.3f}',
                f'{row.honest_best:.3f}',
                f'{row.honest_headroom:.3f} ± {row.honest_interval:.3f}',
            ]
        )
    return table


def r2_table(report: Report) -> PrettyTable:
    """How well quality is predicted on held-out images."""
    levels = [f'level {i}' for i in range(len(report.levels))]
    table = new_table('R² on held-out images', ['predicted from', *levels])
    for name, values in report.r2.items():
        numbers = ['-' if x is None else f'{x:.3f}' for x in values]
        table.add_row([name, *numbers])
    return table


def rival_table(report: Report) -> PrettyTable:
    """What ways of choosing reach on held-out images."""
    table = new_table(
        'ways of choosing on held-out images, in deviations of quality',
        ['choice', 'λ', 'worth', 'gain over fixed', 'cost'],
    )
    for price, rivals in report.rivals.items():
        for name, rival in rivals.items():
            table.add_row(
                [
                    name,
                    price,
                    f'{rival.worth:.3f}',
                    f'{rival.gain:.3f} ± {rival.interval:.3f}',
                    f'{rival.cost:.3f}',
                ],
                divider=name == 'best of the draw itself',
            )
    return table


def show(report: Report, checkpoint: str) -> None:
    """Prints the tables of a checkpoint."""
    print(
        f'\n== {checkpoint}: {report.num_images} images, '
        f'{report.num_excluded} left out as something was not finite'
    )
    for make in (
        level_table,
        component_table,
        headroom_table,
        r2_table,
        rival_table,
    ):
        print(make(report))
    if not report.components.noise:
        print(
            'The draws of an image are alike: the pipeline has no random '
            'augmentation. Honest figures are then not more honest.'
        )


def main() -> None:
    """Measures, prints and writes."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    try:
        cfg, level_loss = read_config(args)
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        dataloader = build_dataloader(cfg, args.split)
        reports: dict[str, Report] = {}
        earlier: list[Signal] = []
        for checkpoint in args.checkpoints:
            torch.manual_seed(args.seed)
            algorithm = build_algorithm(cfg, init_student=False)
            algorithm.to(args.device)
            missing = load_trained(algorithm, checkpoint)
            signal = measure(
                algorithm, dataloader, args.images, args.draws, args.seed
            )
            reports[checkpoint] = analyse(
                signal, PRICES, args.held_out, args.seed, earlier
            )
            earlier.append(signal)
            show(reports[checkpoint], checkpoint)
            parameters = dict(algorithm.named_parameters())
            fresh = [key for key in missing if key in parameters]
            if fresh:
                print(
                    f'{len(fresh)} parameters of losses and connectors, such '
                    f'as {fresh[0]}, are not in the checkpoint and have their '
                    'initial values.'
                )
    except (OSError, ValueError) as error:
        sys.exit(f'level_signal: {error}')
    if args.out:
        file = Path(args.out, 'level_signal.json')
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            'config': args.config,
            'level_loss': dict(level_loss),
            'split': args.split,
            'draws': args.draws,
            'checkpoints': {
                name: asdict(report) for name, report in reports.items()
            },
        }
        file.write_text(json.dumps(content, indent=2, default=str))
        print(f'written to {file}')


if __name__ == '__main__':
    main()
