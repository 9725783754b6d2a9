"""Says what a cache of the teacher's records is good for."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from mmengine.config import Config
from torch.utils.data import DataLoader

from kdvit_mm.analysis.doctor.findings import CacheInfo, Findings
from kdvit_mm.engine.returning_images import (
    EPOCHS,
    NEVER_RETURNS,
    returning_images,
)
from kdvit_mm.models.algorithms.lean_teacher import LeanTeacher

GB = 1e9


@contextmanager
def caches_elsewhere(cfg: Config) -> Iterator[list[str]]:
    """Keeps records in temporary folders inside.

    Args:
        cfg (Config): The config, which is changed.

    Yields:
        list[str]: The config's folders of records, one for each teacher that
        has any.
    """
    model = cfg.get('model', {})
    caches = [
        teacher.cache
        for teacher in (model, *model.get('teachers', ()))
        if 'dir' in (teacher.get('cache') or {})
    ]
    with tempfile.TemporaryDirectory() as folder:
        folders = [str(cache.dir) for cache in caches]
        for number, cache in enumerate(caches):
            cache.dir = f'{folder}/{number}'
        yield folders


def examine_caches(
    findings: Findings, model: Any, loader: DataLoader, folders: list[str]
) -> None:
    """Measures how often images return and how large their records are.

    Args:
        findings (Findings): Receives ``caches`` and what is wrong with them.
        model (Any): The algorithm, after a training step.
        loader (DataLoader): Its ``train_dataloader``.
        folders (list[str]): The config's folders of records.
    """
    cached = [lean for lean in model.lean_teachers if lean.cache is not None]
    for lean, folder in zip(cached, folders, strict=True):
        _examine(findings, model, loader, lean, folder)


def _examine(
    findings: Findings,
    model: Any,
    loader: DataLoader,
    lean: LeanTeacher,
    folder: str,
) -> None:
    assert lean.cache is not None
    store = lean.cache.store
    sizes = [x.stat().st_size for x in store.folder.rglob('*.record')]
    dataset: Any = loader.dataset
    info = CacheInfo(
        lean.prefix[:-1],
        *returning_images(loader, model.data_preprocessor, lean),
        image_bytes=mean(sizes) if sizes else 0.0,
        epoch_bytes=mean(sizes) * len(dataset) if sizes else 0.0,
        max_bytes=store.max_bytes,
        free_bytes=shutil.disk_usage(_existing(folder)).free,
    )
    findings.caches.append(info)
    key = f'{lean.prefix}cache'
    if not info.same_pixels:
        findings.warnings.append(f'{key}: {NEVER_RETURNS}')
        return
    if info.same_pixels - info.hits > 0.1:
        findings.warnings.append(
            f'{key}: after {EPOCHS - 1} epochs {info.same_pixels:.0%} '
            'of the images come with pixels that they had before, but only '
            f'{info.hits:.0%} with the same padding, which depends on the '
            'other images of the batch. Give all batches one shape: for '
            "mmdet with dict(type='BatchFixedSizePad', size=(height, width)) "
            'in model.architecture.data_preprocessor.batch_augments.'
        )
    needed = info.epoch_bytes / GB
    if info.epoch_bytes > info.max_bytes:
        findings.warnings.append(
            f'{key}: the records of an epoch take {needed:.3g} GB, but '
            f'max_bytes={info.max_bytes} keeps {info.max_bytes / GB:.3g} GB: '
            'most are removed before their images come back. Raise '
            'max_bytes, or distil coarse levels alone and set cache.levels.'
        )
    if min(info.epoch_bytes, info.max_bytes) > info.free_bytes:
        findings.warnings.append(
            f'{key}: the records of an epoch take {needed:.3g} GB, but '
            f'"{folder}" has {info.free_bytes / GB:.3g} GB left. Training '
            'goes on without new records once the disk is full.'
        )


def _existing(folder: str) -> Path:
    """The folder, or the nearest above it that exists."""
    path = Path(folder).absolute()
    return next(x for x in (path, *path.parents) if x.exists())
