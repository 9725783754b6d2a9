"""A killed run never loses its checkpoint and resumes from an intact one.

Breaks: mmengine writes a checkpoint in place and, with ``max_keep_ckpts``,
deletes the old one before it writes the new one: a run killed in between
leaves a truncated file, or none, and ``--resume`` picks the truncated one or
starts over.
Since: mmengine 0.1. Upstream: ``CheckpointHook._save_checkpoint_with_step``,
``LocalBackend.put`` and ``find_latest_checkpoint`` at 0.10.7.
Can go: when mmengine writes to a temporary file first.
"""

import functools
import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Patches the writer, the hook, the loader or the look-up."""
    {
        'mmengine.fileio.backends.local_backend': _patch_put,
        'mmengine.hooks.checkpoint_hook': _patch_hook,
        'mmengine.runner': _patch_look_up,
        'mmengine.runner.checkpoint': _patch_loader,
        'mmengine.runner.runner': _patch_look_up,
    }[module.__name__](module)


def is_damaged(path: str) -> bool:
    """Whether ``path`` is an empty file or a truncated zip archive."""
    with open(path, 'rb') as file:
        start = file.read(2)
    return not start or (start == b'PK' and not zipfile.is_zipfile(path))


def find_intact_checkpoint(path: str) -> str | None:
    """Finds the newest checkpoint of a work directory that can be loaded.

    Args:
        path (str): The work directory.

    Returns:
        str | None: The file, or None where there is no intact checkpoint.
    """
    from mmengine.logging import print_log

    folder = Path(path)
    pointer = folder / 'last_checkpoint'
    last = pointer.read_text().strip() if pointer.is_file() else ''
    if last and os.path.isdir(last):  # deepspeed saves folders
        return last
    if last and os.path.isfile(last):
        folder = Path(last).parent
    files = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    for file in sorted(files, key=os.path.getmtime, reverse=True):
        if not is_damaged(str(file)):
            return str(file)
        print_log(
            f'{file} is truncated and is passed over; the checkpoint before '
            'it is used.',
            logger='current',
            level=logging.WARNING,
        )
    return None


def _patch_put(module: Any) -> None:
    def put(self: Any, obj: bytes, filepath: str | Path) -> None:
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f'{target.name}.{os.getpid()}.tmp')
        try:
            unfinished.write_bytes(obj)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    module.LocalBackend.put = put


def _patch_hook(module: Any) -> None:
    hook = module.CheckpointHook
    save = hook._save_checkpoint_with_step

    @functools.wraps(save)
    def save_then_remove(self: Any, *args: Any, **kwargs: Any) -> None:
        with _removing_afterwards(self.file_backend):
            save(self, *args, **kwargs)

    hook._save_checkpoint_with_step = save_then_remove


@contextmanager
def _removing_afterwards(backend: Any) -> Iterator[None]:
    remove = backend.remove
    outdated: list[str] = []
    backend.remove = outdated.append
    try:
        yield
    finally:
        backend.remove = remove
    for file in outdated:
        remove(file)


def _patch_loader(module: Any) -> None:
    module.find_latest_checkpoint = find_intact_checkpoint
    loader = module.CheckpointLoader
    load = loader.load_checkpoint.__func__

    @functools.wraps(load)
    def load_intact(cls: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        path = os.path.expanduser(filename)
        if ':' not in filename and not os.path.isfile(path):
            raise FileNotFoundError(
                f'checkpoint {filename} does not exist. Check load_from, '
                'teacher_ckpt, init_cfg or the path on the command line.'
            )
        if os.path.isfile(path) and is_damaged(path):
            raise RuntimeError(
                f'{filename} is truncated or empty. Take an earlier '
                'checkpoint or download it again; "--resume" alone finds the '
                'newest intact one of the work directory.'
            )
        return load(cls, filename, *args, **kwargs)

    loader.load_checkpoint = classmethod(load_intact)


def _patch_look_up(module: Any) -> None:
    module.find_latest_checkpoint = find_intact_checkpoint
