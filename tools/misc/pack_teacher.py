"""Packs a teacher of the demos, so that it comes with the package.

``python tools/train_stages.py configs/recipes/demo.yml NAME --work-dir DIR``
trains it; this tool writes its weights in half precision to
``kdvit_mm/weights``, with the fingerprint of its config.
"""

import kdvit_mm  # isort: skip  (before torch: its threads)

import argparse
from pathlib import Path

import torch
from mmengine.runner.checkpoint import weights_to_cpu

from kdvit_mm.engine.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[2] / 'configs/recipes/demo.yml'


def main() -> None:
    """Packs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', help='name of the stage')
    parser.add_argument('--work-dir', required=True, help='of train_stages.py')
    args = parser.parse_args()
    stage = read_recipe(RECIPE, args.work_dir, [args.name])[-1]
    given = torch.load(
        stage.checkpoint, map_location='cpu', weights_only=False
    )
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in weights_to_cpu(given['state_dict']).items()
    }
    meta = {
        'dataset_meta': {
            'classes': [*given['meta']['dataset_meta']['classes']]
        },
        'fingerprint': stage.fingerprint,
    }
    file = Path(kdvit_mm.__file__).parent / 'weights' / f'{stage.name}.pth'
    file.parent.mkdir(exist_ok=True)
    torch.save({'state_dict': halves, 'meta': meta}, file)
    print(f'{file}: {file.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
