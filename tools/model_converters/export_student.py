"""Takes a student out of a distillation checkpoint.

The result is an ordinary mmdet, mmseg or mmpretrain checkpoint for an
ordinary config, which it holds too. It is loaded strictly before it is
written.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint

from kdvit_mm.analysis.configs import model_config
from kdvit_mm.models.utils.checkpoint_kind import STUDENT, student_weights
from kdvit_mm.models.utils.student_config import plain_text, student_config


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
    parser.add_argument(
        '--student',
        default='student',
        help='which of the students of a MutualDistill, a key of model.peers; '
        'the first if not given',
    )
    return parser.parse_args()


def plain_config(checkpoint: dict, config: str | None, name: str) -> Config:
    """Finds the plain config of the student.

    Args:
        checkpoint (dict): The distillation checkpoint.
        config (str | None): File of a plain config, or None to take the
            student of the checkpoint's own config.
        name (str): Which student.

    Returns:
        Config: The plain config.
    """
    if config is not None:
        return student_config(Config.fromfile(config), name)
    text = checkpoint.get('meta', {}).get('cfg')
    if text is None:
        sys.exit(
            'the checkpoint holds no config: give the plain config of '
            'the student with --config.'
        )
    return student_config(Config.fromstring(text, '.py'), name)


def main() -> None:
    """Exports, checks and writes the student."""
    args = parse_args()
    checkpoint = _load_checkpoint(args.checkpoint, map_location='cpu')
    weights = checkpoint.get('state_dict', checkpoint)
    state = student_weights(weights, args.student)
    peers = {key.split('.')[1] for key in weights if key.startswith('peers.')}
    if args.student != 'student' and not state:
        sys.exit(
            f'{args.checkpoint} has no student "{args.student}"; besides the '
            f'first it has {", ".join(sorted(peers)) or "none"}.'
        )
    if not state:
        sys.exit(
            f'{args.checkpoint} has no "{STUDENT}" weights: it is not a '
            'distillation checkpoint, and may be a student already.'
        )
    cfg = plain_config(checkpoint, args.config, args.student)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        MODELS.build(model_config(cfg)).load_state_dict(state)
    except RuntimeError as error:
        sys.exit(f'the student does not fit its plain config: {error}')
    meta = checkpoint.get('meta', {})
    kept = {k: meta[k] for k in ('dataset_meta', 'epoch', 'iter') if k in meta}
    kept['cfg'] = plain_text(cfg)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    torch.save({'meta': kept, 'state_dict': state}, args.out)
    print(f'{len(state)} weights written to {args.out}')


if __name__ == '__main__':
    main()
