"""Takes the student out of a distillation checkpoint.

The result is an ordinary mmdet, mmseg or mmpretrain checkpoint for an
ordinary config. It is loaded strictly before it is written.
"""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn

import kdvit_mm  # noqa: F401  mends the stack before anything is built

PREFIX = 'architecture.'


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='distillation checkpoint')
    parser.add_argument('out', help='file for the student alone')
    parser.add_argument(
        '--config',
        help='plain config of the student to check against; without it the '
        'student of the distillation config in the checkpoint is used',
    )
    return parser.parse_args()


def build_student(checkpoint: dict, config: str | None) -> nn.Module:
    """Builds the plain student that the weights must fit.

    Args:
        checkpoint (dict): The distillation checkpoint.
        config (str | None): File of a plain config.

    Returns:
        nn.Module: The student without its trained weights.
    """
    if config is not None:
        cfg = Config.fromfile(config)
        student = cfg.model
    else:
        text = checkpoint.get('meta', {}).get('cfg')
        if text is None:
            sys.exit(
                'the checkpoint holds no config: give the plain config of '
                'the student with --config.'
            )
        cfg = Config.fromstring(text, '.py')
        student = cfg.model.architecture
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    student.pop('init_cfg', None)
    return MODELS.build(student)


def main() -> None:
    """Exports, checks and writes the student."""
    args = parse_args()
    checkpoint = _load_checkpoint(args.checkpoint, map_location='cpu')
    state = checkpoint.get('state_dict', checkpoint)
    student_state = OrderedDict(
        (key.removeprefix(PREFIX), value)
        for key, value in state.items()
        if key.startswith(PREFIX)
    )
    if not student_state:
        sys.exit(
            f'{args.checkpoint} has no "{PREFIX}" weights: it is not a '
            'distillation checkpoint, and may be a student already.'
        )
    try:
        build_student(checkpoint, args.config).load_state_dict(student_state)
    except RuntimeError as error:
        sys.exit(f'the student does not fit its plain config: {error}')
    meta = checkpoint.get('meta', {})
    kept = {k: meta[k] for k in ('dataset_meta', 'epoch', 'iter') if k in meta}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    torch.save({'meta': kept, 'state_dict': student_state}, args.out)
    print(f'{len(student_state)} weights written to {args.out}')


if __name__ == '__main__':
    main()
