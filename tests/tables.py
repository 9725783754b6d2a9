"""A small table of classifiers of 32 px crops."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'demo'
BIG = CONFIGS / 'resnet18-w0.25_10e_digits-32.py'
SMALL = CONFIGS / 'resnet18-w0.0625_10e_digits-32.py'
KD = CONFIGS / 'kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py'


def describe(**changes: Any) -> dict[str, Any]:
    """A small table; None as a value takes its key away."""
    table: dict[str, Any] = dict(
        title='Crops',
        metric=dict(name='top-1', key='accuracy/top1'),
        seeds=[0, 1],
        options={
            'train_cfg.max_epochs': 1,
            'train_dataloader.batch_size': 8,
            'train_dataloader.num_workers': 0,
            'default_hooks.logger.interval': 1,
        },
        teachers=dict(
            big=dict(
                config=str(BIG),
                options={
                    'train_cfg.max_epochs': 1,
                    'train_dataloader.num_workers': 0,
                },
            )
        ),
        rows=[
            dict(name='alone', config=str(SMALL), baseline=True),
            dict(
                name='KD',
                config=str(KD),
                teacher='big',
                published=1.5,
                source='a | b',
            ),
        ],
    )
    table |= changes
    return {key: value for key, value in table.items() if value is not None}


def write(file: Path, **changes: Any) -> Path:
    """Writes it, changed, to a file."""
    file.write_text(yaml.safe_dump(describe(**changes), sort_keys=False))
    return file
