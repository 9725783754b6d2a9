# Copyright (c) kdvit_mm contributors. All rights reserved.
"""Scenes composed from real handwritten digits, made without a download.

One folder serves detection (COCO boxes), semantic segmentation (masks) and
classification (32 px crops). See ``README.md`` beside this file.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import MMLogger
from mmengine.utils import track_iter_progress

GENERATOR = 'kdvit_mm digit scenes'
# Raise it whenever the same parameters give different files.
VERSION = 2
CLASSES = tuple('0123456789')
PALETTE = [
    (220, 20, 60),
    (0, 130, 200),
    (60, 180, 75),
    (255, 225, 25),
    (145, 30, 180),
    (70, 240, 240),
    (245, 130, 48),
    (240, 50, 230),
    (170, 110, 40),
    (128, 128, 128),
]
SPLITS = ('train', 'val')
COMMAND = 'python tools/dataset_converters/digit_scenes.py'

MANIFEST = 'manifest.json'
# Name of the manifest while the folder is being filled.
UNFINISHED = 'unfinished.json'

MAX_DIGITS = 6
MIN_SIDE = 16  # px
MAX_SIDE = 0.9  # of the image
MIN_VISIBLE = 0.85  # of a digit's own area
PLACE_TRIES = 10
CROP = 32  # px, the classification images
TRAIN_SAMPLES = 1437  # of 1797; the rest is for validation

# Letters that no digit looks like, as strokes in the unit square (x, y).
LETTERS = (
    (((0, 1), (0.5, 0), (1, 1)), ((0.2, 0.6), (0.8, 0.6))),  # A
    (((1, 0), (0, 0), (0, 1), (1, 1)), ((0, 0.5), (0.8, 0.5))),  # E
    (((1, 0), (0, 0), (0, 1)), ((0, 0.5), (0.8, 0.5))),  # F
    (((0, 0), (0, 1)), ((1, 0), (1, 1)), ((0, 0.5), (1, 0.5))),  # H
    (((0, 0), (0, 1)), ((1, 0), (0, 0.5), (1, 1))),  # K
    (((0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)),),  # M
    (((0, 1), (0, 0), (1, 1), (1, 0)),),  # N
    (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),  # T
    (((0, 0), (0.3, 1), (0.5, 0.4), (0.7, 1), (1, 0)),),  # W
    (((0, 0), (1, 1)), ((1, 0), (0, 1))),  # X
)


@dataclass(frozen=True)
class DigitSceneParams:
    """What the data set is made of; equal parameters give equal files.

    Args:
        size (int): Side of the square scenes in pixels. Defaults to 128.
        train (int): Number of scenes to train on. Defaults to 4000.
        val (int): Number of scenes to validate on. Defaults to 1000.
        cls_train (int): Crops per class to train on. Defaults to 600.
        cls_val (int): Crops per class to validate on. Defaults to 60.
        seed (int): Seed of everything, not negative. Defaults to 0.

    Raises:
        ValueError: If a number is too small to make a data set.
    """

    size: int = 128
    train: int = 4000
    val: int = 1000
    cls_train: int = 600
    cls_val: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < CROP:
            raise ValueError(
                f'size must be at least {CROP} px, got {self.size}'
            )
        for name in ('train', 'val', 'cls_train', 'cls_val'):
            if getattr(self, name) < 1:
                raise ValueError(
                    f'{name} must be at least 1, got {getattr(self, name)}'
                )
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')


@dataclass(frozen=True)
class Scene:
    """One composed image and what is known about it.

    Args:
        image (np.ndarray): uint8 BGR image with shape (H, W, 3).
        boxes (np.ndarray): int xywh boxes of the visible pixels, in pixels,
            with shape (N, 4).
        areas (np.ndarray): Visible pixels of each digit, with shape (N, ).
        labels (np.ndarray): Digits 0 to 9, with shape (N, ).
        mask (np.ndarray): uint8 semantic mask with shape (H, W); 0 is
            background, ``label + 1`` a digit.
    """

    image: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


@cache
def handwritten_samples(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Get the handwriting of a split; the two splits share no sample.

    Args:
        split (str): 'train' or 'val'.

    Returns:
        tuple[np.ndarray, np.ndarray]: Ink coverage in [0, 1] with shape
        (N, 8, 8), and the digits with shape (N, ).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = (
        slice(TRAIN_SAMPLES)
        if split == 'train'
        else slice(TRAIN_SAMPLES, None)
    )
    return digits.images[part].astype(np.float32) / 16, digits.target[part]


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a texture: noise of several scales, at times with stripes.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side in pixels.

    Returns:
        np.ndarray: float32 BGR image with shape (size, size, 3), about 0 to
        255.
    """
    texture = np.zeros((size, size), np.float32)
    roughness = rng.uniform(0.2, 1.2)
    for cells in (2, 4, 8, 16, 32, 64):
        if cells > size:
            break
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        texture += cells**-roughness * cv2.resize(
            grid, (size, size), interpolation=cv2.INTER_CUBIC
        )
    if rng.random() < 0.4:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 20)
        y, x = np.mgrid[:size, :size].astype(np.float32) / size
        phase = np.cos(angle) * x + np.sin(angle) * y
        stripes = np.sin(2 * np.pi * waves * phase + texture)
        texture += rng.uniform(0.2, 0.8) * stripes
    texture -= texture.mean()
    texture /= 2 * texture.std()
    # Dark as a blackboard: ink is mostly lighter than what is behind it.
    middle = rng.uniform(20, 110, 3)
    contrast = rng.uniform(-40, 40, 3)
    return (middle + texture[..., None] * contrast).astype(np.float32)


def draw_glyph(
    rng: np.random.Generator, ink: np.ndarray, side: float
) -> np.ndarray:
    """Draw coarse handwriting smoothly, turned, sheared, thinner or thicker.

    Args:
        rng (np.random.Generator): Source of randomness.
        ink (np.ndarray): Ink coverage in [0, 1] with shape (8, 8).
        side (float): Longer side of the drawn glyph in pixels.

    Returns:
        np.ndarray: float32 alpha in [0, 1] with shape (H, W), just larger
        than the glyph.
    """
    zoom = 4
    ink = cv2.resize(
        np.pad(ink, 1), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC
    )
    threshold = rng.uniform(0.4, 0.6)
    turn = np.deg2rad(rng.uniform(-12, 12))
    affine = (
        np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        @ [[1, rng.uniform(-0.2, 0.2)], [0, 1]]
        @ [[rng.uniform(0.75, 1.25), 0], [0, 1]]
    )
    points = np.argwhere(ink > threshold)[:, ::-1] @ affine.T
    low, high = points.min(0), points.max(0)
    scale = side / (high - low + 1).max()
    affine = np.column_stack([affine, -low]) * scale
    affine[:, 2] += 1
    width, height = np.ceil((high - low + 1) * scale).astype(int) + 2
    value = cv2.warpAffine(
        ink, affine, (int(width), int(height)), flags=cv2.INTER_CUBIC
    )
    # Steep enough that no ink means alpha 0, at most about one pixel sharp.
    steepness = max(2.0, zoom * scale * rng.uniform(0.4, 1.2))
    return np.clip((value - threshold) * steepness + 0.5, 0, 1)


def draw_letter(rng: np.random.Generator, side: float) -> np.ndarray:
    """Draw a wobbly letter as coarse as the digits are, so it looks alike.

    Args:
        rng (np.random.Generator): Source of randomness.
        side (float): Longer side in pixels.

    Returns:
        np.ndarray: float32 alpha in [0, 1] with shape (H, W).
    """
    canvas = np.zeros((64, 64), np.uint8)
    for stroke in LETTERS[rng.integers(len(LETTERS))]:
        points = 8 + 48 * np.array(stroke) + rng.normal(0, 3, (len(stroke), 2))
        cv2.polylines(
            canvas, [points.astype(np.int32)], False, 255, 9, cv2.LINE_AA
        )
    ink = cv2.resize(canvas, (8, 8), interpolation=cv2.INTER_AREA)
    return draw_glyph(rng, ink.astype(np.float32) / 255, side)


def draw_stroke(rng: np.random.Generator, side: float) -> np.ndarray:
    """Draw a bent line of a pen as thick as the digits' pens.

    Args:
        rng (np.random.Generator): Source of randomness.
        side (float): Side of the patch in pixels.

    Returns:
        np.ndarray: float32 alpha in [0, 1] with shape (side, side).
    """
    canvas = np.zeros((int(side), int(side)), np.uint8)
    start, bend, end = rng.uniform(0, side, (3, 2))
    t = np.linspace(0, 1, 16)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    thickness = max(1, round(side * rng.uniform(0.04, 0.16)))
    cv2.polylines(
        canvas, [curve.astype(np.int32)], False, 255, thickness, cv2.LINE_AA
    )
    return canvas.astype(np.float32) / 255


def draw_blob(rng: np.random.Generator, side: float) -> np.ndarray:
    """Draw an ellipse, filled or as a ring that is not closed.

    Args:
        rng (np.random.Generator): Source of randomness.
        side (float): Side of the patch in pixels.

    Returns:
        np.ndarray: float32 alpha in [0, 1] with shape (side, side).
    """
    canvas = np.zeros((int(side), int(side)), np.uint8)
    centre = (int(side) // 2, int(side) // 2)
    axes = (int(side * rng.uniform(0.1, 0.4)), int(side * 0.4))
    turn = rng.uniform(0, 180)
    if rng.random() < 0.5:
        cv2.ellipse(
            canvas, centre, axes, turn, 0, 360, 255, cv2.FILLED, cv2.LINE_AA
        )
    else:
        # An almost closed ring would be a zero.
        arc = rng.uniform(60, 180)
        thickness = max(1, round(side * 0.1))
        cv2.ellipse(
            canvas, centre, axes, turn, 0, arc, 255, thickness, cv2.LINE_AA
        )
    return canvas.astype(np.float32) / 255


def paint(
    rng: np.random.Generator,
    image: np.ndarray,
    alpha: np.ndarray,
    corner: np.ndarray,
) -> None:
    """Blend a patch into the image, in a colour that stands out there.

    Args:
        rng (np.random.Generator): Source of randomness.
        image (np.ndarray): float32 BGR image (H, W, 3), changed in place.
        alpha (np.ndarray): Alpha of the patch with shape (h, w).
        corner (np.ndarray): Its upper left pixel (x, y).
    """
    x, y = corner
    window = image[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    behind = np.average(
        window.reshape(-1, 3), axis=0, weights=alpha.ravel() + 1e-6
    )
    colours = rng.uniform(90, 255, (16, 3))
    distances = np.linalg.norm(colours - behind, axis=1)
    # The nearest colour beyond a random contrast, so that faint ones occur.
    distances[distances < rng.uniform(100, 160)] = np.inf
    colour = colours[distances.argmin()]
    opacity = rng.uniform(0.75, 1) * alpha[..., None]
    window += opacity * (colour - window)


def place(
    rng: np.random.Generator, size: int, alpha: np.ndarray
) -> np.ndarray:
    """Choose where a patch lies, whole, inside the image.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side of the image in pixels.
        alpha (np.ndarray): Alpha of the patch with shape (h, w).

    Returns:
        np.ndarray: Upper left pixel (x, y).
    """
    height, width = alpha.shape
    return rng.integers(0, (size - width + 1, size - height + 1))


def log_uniform(
    rng: np.random.Generator, low: float, high: float, count: int
) -> np.ndarray:
    """Draw numbers whose logarithm is uniform.

    Args:
        rng (np.random.Generator): Source of randomness.
        low (float): Smallest number.
        high (float): Largest number.
        count (int): How many.

    Returns:
        np.ndarray: The numbers with shape (count, ).
    """
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def compose_scene(
    rng: np.random.Generator,
    size: int,
    split: str,
    labels: np.ndarray,
    sides: np.ndarray,
    distractors: int,
) -> Scene:
    """Compose background, distractors and digits.

    A digit may cover others, but where it would leave less than
    ``MIN_VISIBLE`` of one it is placed again, and after ``PLACE_TRIES`` it is
    left out: no digit to be seen is without its box.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side of the scene in pixels.
        split (str): Whose handwriting to use, 'train' or 'val'.
        labels (np.ndarray): Digits in the order they are laid, (N, ).
        sides (np.ndarray): Their longer sides in pixels, (N, ).
        distractors (int): Number of things behind that are no digits.

    Returns:
        Scene: The scene; it shows at least the first digit.
    """
    image = draw_background(rng, size)
    kinds = (draw_letter, draw_stroke, draw_blob)
    for side in log_uniform(rng, 8, size / 2, distractors):
        alpha = kinds[rng.integers(len(kinds))](rng, side)
        paint(rng, image, alpha, place(rng, size, alpha))

    samples, targets = handwritten_samples(split)
    owner = np.full((size, size), -1)
    drawn: list[int] = []
    whole: list[int] = []
    for label, side in zip(labels, sides, strict=True):
        ink = samples[rng.choice(np.flatnonzero(targets == label))]
        alpha = draw_glyph(rng, ink, side)
        solid = alpha > 0.5
        areas = [*whole, int(solid.sum())]
        for _ in range(PLACE_TRIES):
            x, y = corner = place(rng, size, alpha)
            trial = owner.copy()
            height, width = alpha.shape
            trial[y : y + height, x : x + width][solid] = len(drawn)
            visible = np.bincount(trial.ravel() + 1, minlength=len(areas) + 1)
            if (visible[1:] >= MIN_VISIBLE * np.array(areas)).all():
                paint(rng, image, alpha, corner)
                owner, whole = trial, areas
                drawn.append(int(label))
                break

    # A slanted light, then the camera's noise.
    slope = rng.uniform(-0.25, 0.25, 2)
    ramp = np.linspace(-1, 1, size)
    image *= (1 + slope[0] * ramp[:, None] + slope[1] * ramp)[..., None]
    image += rng.normal(0, rng.uniform(2, 10), image.shape)
    digits = np.array(drawn)
    return Scene(
        image=np.clip(image, 0, 255).astype(np.uint8),
        boxes=np.array(
            [
                cv2.boundingRect((owner == i).astype(np.uint8))
                for i in range(len(drawn))
            ]
        ),
        areas=np.bincount(owner.ravel() + 1, minlength=len(drawn) + 1)[1:],
        labels=digits,
        mask=np.append(digits + 1, 0)[owner].astype(np.uint8),
    )


def detection_scene(params: DigitSceneParams, split: str, index: int) -> Scene:
    """Compose one scene of the detection and segmentation splits.

    Args:
        params (DigitSceneParams): What the data set is made of.
        split (str): 'train' or 'val'.
        index (int): Number of the scene in its split.

    Returns:
        Scene: The scene, the same for the same arguments.
    """
    rng = np.random.default_rng([params.seed, SPLITS.index(split), index])
    count = int(rng.integers(1, MAX_DIGITS + 1))
    sides = log_uniform(rng, MIN_SIDE, MAX_SIDE * params.size, count)
    # Roughly the largest first, so that it does not hide all others.
    order = np.argsort(-sides * log_uniform(rng, 0.5, 2, count))
    labels = rng.integers(0, 10, count)
    distractors = int(rng.integers(1, 5))
    return compose_scene(
        rng, params.size, split, labels, sides[order], distractors
    )


def classification_crop(
    params: DigitSceneParams, split: str, index: int
) -> Scene:
    """Compose one image of the classification split.

    Args:
        params (DigitSceneParams): What the data set is made of.
        split (str): 'train' or 'val'.
        index (int): Number of the crop in its split; its digit is the
            number's last.

    Returns:
        Scene: The scene with one digit, the same for the same arguments.
    """
    rng = np.random.default_rng([params.seed, 2 + SPLITS.index(split), index])
    sides = rng.uniform(0.6 * CROP, MAX_SIDE * CROP, 1)
    labels = np.array([index % 10])
    distractors = int(rng.integers(0, 3))
    return compose_scene(rng, CROP, split, labels, sides, distractors)


def _write(path: Path, image: np.ndarray) -> None:
    # cv2.imwrite only returns False, e.g. when the disk is full. Its default
    # quality for JPEG is 95.
    if not cv2.imwrite(str(path), image):
        raise OSError(f'could not write {path}')


def _write_scene(
    params: DigitSceneParams, root: Path, task: tuple[str, int]
) -> tuple[list[list[int]], list[int], list[int]]:
    split, index = task
    scene = detection_scene(params, split, index)
    _write(root / 'images' / split / f'{index:06d}.jpg', scene.image)
    _write(root / 'masks' / split / f'{index:06d}.png', scene.mask)
    return scene.boxes.tolist(), scene.areas.tolist(), scene.labels.tolist()


def _write_crop(
    params: DigitSceneParams, root: Path, task: tuple[str, int]
) -> None:
    split, index = task
    scene = classification_crop(params, split, index)
    folder = root / 'cls' / split / CLASSES[index % 10]
    _write(folder / f'{index:06d}.png', scene.image)


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _fill(params: DigitSceneParams, root: Path, workers: int) -> None:
    """Write every file of the data set but the manifest."""
    for split in SPLITS:
        for folder in ('images', 'masks'):
            (root / folder / split).mkdir(parents=True)
        for name in CLASSES:
            (root / 'cls' / split / name).mkdir(parents=True)
    (root / 'annotations').mkdir()

    scenes = [(s, i) for s in SPLITS for i in range(getattr(params, s))]
    crops = [
        (s, i) for s in SPLITS for i in range(10 * getattr(params, f'cls_{s}'))
    ]
    write_scene = partial(_write_scene, params, root)
    write_crop = partial(_write_crop, params, root)

    def track(results: Iterable, total: int) -> list:
        return list(track_iter_progress((results, total)))

    if workers == 1:
        found = track(map(write_scene, scenes), len(scenes))
        track(map(write_crop, crops), len(crops))
    else:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            try:
                found = track(
                    pool.map(write_scene, scenes, chunksize=4), len(scenes)
                )
                track(pool.map(write_crop, crops, chunksize=64), len(crops))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    for split in SPLITS:
        results = [
            (index, result)
            for (s, index), result in zip(scenes, found, strict=True)
            if s == split
        ]
        (root / 'annotations' / f'{split}.json').write_text(
            json.dumps(_coco(params, results))
        )


def _coco(params: DigitSceneParams, results: list) -> dict[str, list]:
    """Put the objects of a split into COCO's format."""
    images: list[dict] = []
    annotations: list[dict] = []
    for index, objects in results:
        images.append(
            {
                'id': index,
                'file_name': f'{index:06d}.jpg',
                'width': params.size,
                'height': params.size,
            }
        )
        for box, area, label in zip(*objects, strict=True):
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': index,
                    'category_id': label + 1,
                    'bbox': box,
                    'area': area,
                    'iscrowd': 0,
                }
            )
    return {
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)
        ],
    }


def _manifest(params: DigitSceneParams) -> dict[str, Any]:
    return {
        'generator': GENERATOR,
        'version': VERSION,
        'params': asdict(params),
    }


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Read a manifest of this generator; None for anything else."""
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get('generator')
    return manifest if ours == GENERATOR else None


def _refuse_foreign(folder: Path) -> None:
    """Refuse a path that this generator may not delete."""
    if not folder.exists() or (
        folder.is_dir()
        and (
            not any(folder.iterdir())
            or _read_manifest(folder / MANIFEST)
            or _read_manifest(folder / UNFINISHED)
        )
    ):
        return
    raise FileExistsError(
        f'{folder} is in the way: it was not made by this generator (there is '
        f'no {MANIFEST} of it inside), so it is left as it is. Choose another '
        'folder with --out, or move it away.'
    )


def make_digit_scenes(
    out: str | Path, params: DigitSceneParams, workers: int = 1
) -> bool:
    """Make the data set, or re-use it if its manifest matches.

    It is made in a sibling folder ``<out>.partial`` and moved to its place
    when it is whole, so what lies at ``out`` is never half a data set.

    Args:
        out (str | Path): Its folder, e.g. ``data/digit_scenes``.
        params (DigitSceneParams): What it is made of.
        workers (int): Number of processes; the files do not depend on it.
            Defaults to 1.

    Returns:
        bool: Whether it was made now; False if it was there.

    Raises:
        FileExistsError: If something not made by this generator is in the
            way.
        KeyboardInterrupt: If interrupted, after cleaning up.
    """
    out = Path(out).resolve()
    logger = MMLogger.get_current_instance()
    if _read_manifest(out / MANIFEST) == _manifest(params):
        logger.info(f'{out} is complete and up to date: nothing to make.')
        return False
    partial_out = out.with_name(f'{out.name}.partial')
    old = out.with_name(f'{out.name}.old')
    for folder in (out, partial_out, old):
        _refuse_foreign(folder)
    for folder in (partial_out, old):
        if folder.exists():
            logger.warning(f'Removing {folder}, left by an interrupted run.')
            shutil.rmtree(folder)

    logger.info(f'Making {out} with {params}.')
    try:
        partial_out.mkdir(parents=True)
        manifest = json.dumps(_manifest(params), indent=2)
        (partial_out / UNFINISHED).write_text(manifest)
        _fill(params, partial_out, workers)
        os.replace(partial_out / UNFINISHED, partial_out / MANIFEST)
        if out.exists():
            os.replace(out, old)
        os.replace(partial_out, out)
    except BaseException as error:
        shutil.rmtree(partial_out, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            logger.warning(
                f'Interrupted: {out} was not made, and what was done of it is '
                'removed. Start the same command again to make it.'
            )
        raise
    if old.exists():
        shutil.rmtree(old)
    logger.info(f'Made {out}.')
    return True


def require_digit_scenes(root: str | Path) -> None:
    """Check that a whole data set is there.

    Args:
        root (str | Path): Its folder, the ``data_root`` of a config.

    Raises:
        FileNotFoundError: If it is missing or unfinished; the message has the
            command that makes it.
    """
    if not _read_manifest(Path(root) / MANIFEST):
        what = 'unfinished or foreign' if Path(root).exists() else 'missing'
        raise FileNotFoundError(
            f'The data set of digit scenes at "{root}" is {what}: there is no '
            f'{MANIFEST} of it. Make it with:\n    {COMMAND} --out {root}'
        )
