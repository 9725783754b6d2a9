"""Joins checkpoints into one ensemble, which is tested like any model.

Members are exported students or checkpoints of ordinary models for the same
classes, such as all generations of born-again networks. Besides OUT, its
config is written, for ``tools/test.py OUT.py OUT.pth``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint

from kdvit_mm.analysis.configs import model_config
from kdvit_mm.models.ensembles import MERGERS
from kdvit_mm.models.utils.checkpoint_kind import student_weights
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.models.utils.student_config import plain_text, student_config


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='file for the ensemble, .pth')
    parser.add_argument('checkpoints', nargs='+', help='two or more')
    args = parser.parse_args()
    if len(args.checkpoints) < 2:
        parser.error('an ensemble has two checkpoints or more')
    if args.out.suffix != '.pth':
        parser.error(f'OUT has to be a .pth file, got {args.out}')
    return args


def read_member(file: str) -> tuple[Config, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        file (str): The file.

    Returns:
        tuple[Config, dict[str, Any]]: Its plain config and its weights.
    """
    checkpoint = _load_checkpoint(file, map_location='cpu')
    text = checkpoint.get('meta', {}).get('cfg')
    if text is None:
        sys.exit(
            f'{file} holds no config. Take a checkpoint as training or '
            'export_student.py writes it.'
        )
    state = checkpoint['state_dict']
    cfg = student_config(Config.fromstring(text, '.py'))
    return cfg, student_weights(state) or state


def main() -> None:
    """Joins, checks and writes."""
    args = parse_args()
    configs, states = zip(*map(read_member, args.checkpoints), strict=True)
    cfg = configs[0]
    models = [in_own_scope(model_config(config)) for config in configs]
    scopes = [
        model.get('_scope_') or config.get('default_scope')
        for model, config in zip(models, configs, strict=True)
    ]
    if len({*scopes}) > 1 or scopes[0] not in MERGERS:
        sys.exit(
            'An ensemble is of models of one package, '
            f'{", ".join(MERGERS)}; these are of '
            f'{", ".join(map(str, scopes))}.'
        )
    cfg.model = ConfigDict(
        type='kdvit_mm.Ensemble', members=models, merger=MERGERS[scopes[0]]
    )
    cfg.pop('data_preprocessor', None)
    cfg.custom_imports = {'imports': ['kdvit_mm']}
    init_default_scope(scopes[0])
    state = {
        f'members.{index}.{key}': value
        for index, member in enumerate(states)
        for key, value in member.items()
    }
    try:
        MODELS.build(cfg.model).load_state_dict(state)
    except RuntimeError as error:
        sys.exit(f'a checkpoint does not fit its config: {error}')
    text = plain_text(cfg)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'meta': {'cfg': text}, 'state_dict': state}, args.out)
    config = args.out.with_suffix('.py')
    config.write_text(text)
    print(f'{len(states)} members written to {args.out} and {config}')


if __name__ == '__main__':
    main()
