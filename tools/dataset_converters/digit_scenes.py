# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Make the data set of digit scenes, and show how large its objects are."""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from kdvit_mm.datasets import DigitSceneParams, make_digit_scenes

# Of P2 to P6, seen from a scene that is resized to DETECTION_SIZE.
STRIDES = (4, 8, 16, 32, 64)
DETECTION_SIZE = 96
# Of GFL on COCO, and the one that suits objects of 12 to 86 px.
BASE_SCALES = (8, 2)
SIDES = (0, 16, 20, 28, 40, 56, 80, 112, 128)


def load_objects(
    annotation_file: Path,
) -> tuple[int, list[np.ndarray]]:
    """Load the boxes of a split.

    Args:
        annotation_file (Path): The split's COCO file.

    Returns:
        tuple[int, list[np.ndarray]]: Side of the images in pixels, and xywh
        boxes with shape (N, 4) for each image.
    """
    coco = json.loads(annotation_file.read_text())
    boxes: dict[int, list] = {image['id']: [] for image in coco['images']}
    for annotation in coco['annotations']:
        boxes[annotation['image_id']].append(annotation['bbox'])
    return coco['images'][0]['width'], [np.array(b) for b in boxes.values()]


def assigned_levels(
    size: int, boxes_per_image: list[np.ndarray], base_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Count what mmdet's ATSS assigns to the levels P2 to P6.

    Args:
        size (int): Side of the images in pixels.
        boxes_per_image (list[np.ndarray]): xywh boxes, (N, 4) each.
        base_scale (float): ``octave_base_scale`` of the anchors: their side
            in strides.

    Returns:
        tuple[np.ndarray, np.ndarray]: For each level the number of objects
        with a positive anchor there, and of positive anchors.
    """
    import torch
    from mmdet.models.task_modules.assigners import ATSSAssigner
    from mmdet.models.task_modules.prior_generators import AnchorGenerator
    from mmengine.structures import InstanceData

    generator = AnchorGenerator(
        ratios=[1.0],
        octave_base_scale=base_scale,
        scales_per_octave=1,
        strides=STRIDES,
    )
    maps = [(-(-size // stride),) * 2 for stride in STRIDES]
    anchors = generator.grid_priors(maps, device='cpu')
    per_level = [len(level) for level in anchors]
    level_of = np.repeat(np.arange(len(STRIDES)), per_level)
    priors = InstanceData(priors=torch.cat(anchors))
    assigner = ATSSAssigner(topk=9)
    found = []
    for image, boxes in enumerate(boxes_per_image):
        corners = torch.tensor(boxes, dtype=torch.float32)
        corners[:, 2:] += corners[:, :2]
        truth = InstanceData(
            bboxes=corners, labels=torch.zeros(len(corners), dtype=torch.long)
        )
        owner = assigner.assign(priors, per_level, truth).gt_inds.numpy()
        for anchor in np.flatnonzero(owner > 0):
            found.append((level_of[anchor], image, owner[anchor]))
    objects = [level for level, _, _ in set(found)]
    positives = [level for level, _, _ in found]
    count = len(STRIDES)
    return (
        np.bincount(objects, minlength=count),
        np.bincount(positives, minlength=count),
    )


def print_histogram(root: Path) -> None:
    """Print the sizes of the objects and their levels as Markdown.

    Args:
        root (Path): Folder of the data set.
    """
    splits = {
        split: load_objects(root / 'annotations' / f'{split}.json')
        for split in ('train', 'val')
    }
    counts = []
    for _, boxes in splits.values():
        sides = np.concatenate(boxes)[:, 2:].max(1)
        counts.append(np.histogram(sides, [*SIDES[:-1], np.inf])[0])
    print('| longer side, px | train objects | val objects |')
    print('|---|---|---|')
    for i, low in enumerate(SIDES[:-1]):
        last = i == len(SIDES) - 2
        name = f'{low} and more' if last else f'{low} to {SIDES[i + 1] - 1}'
        print(f'| {name} | {counts[0][i]} | {counts[1][i]} |')
    print(f'| all | {counts[0].sum()} | {counts[1].sum()} |')

    size, boxes = splits['train']
    shown = [each * (DETECTION_SIZE / size) for each in boxes]
    columns = [
        assigned_levels(DETECTION_SIZE, shown, scale) for scale in BASE_SCALES
    ]
    print('\n| train, level (stride, cells)', end='')
    for scale in BASE_SCALES:
        print(f' | scale {scale}: objects | positive anchors', end='')
    print(' |\n|---' + '|---' * 2 * len(BASE_SCALES) + '|')
    for i, stride in enumerate(STRIDES):
        cells = -(-DETECTION_SIZE // stride)
        print(f'| P{i + 2} ({stride}, {cells}x{cells})', end='')
        for objects, anchors in columns:
            print(f' | {objects[i]} | {anchors[i]}', end='')
        print(' |')


def parse_args() -> argparse.Namespace:
    """Parse the command line.

    Returns:
        argparse.Namespace: The arguments.
    """
    default = DigitSceneParams()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--out', type=Path, default='data/digit_scenes', help='its folder'
    )
    parser.add_argument(
        '--size', type=int, default=default.size, help='side of a scene, px'
    )
    parser.add_argument(
        '--train', type=int, default=default.train, help='number of scenes'
    )
    parser.add_argument(
        '--val', type=int, default=default.val, help='number of scenes'
    )
    parser.add_argument(
        '--seed', type=int, default=default.seed, help='seed of everything'
    )
    parser.add_argument(
        '--workers', type=int, default=1, help='number of processes'
    )
    parser.add_argument(
        '--histogram',
        action='store_true',
        help='print the sizes of the objects and their pyramid levels',
    )
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f'--workers must be at least 1, got {args.workers}')
    return args


def main() -> int:
    """Make the data set.

    Returns:
        int: Exit status.
    """
    args = parse_args()
    try:
        params = DigitSceneParams(
            size=args.size, train=args.train, val=args.val, seed=args.seed
        )
        make_digit_scenes(args.out, params, args.workers)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if args.histogram:
        print_histogram(args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
