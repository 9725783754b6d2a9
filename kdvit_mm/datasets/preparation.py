"""Prepares the data of the small configs."""

import hashlib
from functools import cache
from pathlib import Path

from mmengine.config import Config

from kdvit_mm.datasets.digit_scenes import (
    MANIFEST,
    DigitSceneParams,
    make_digit_scenes,
)
from kdvit_mm.models.utils.dotted_keys import replace_prefix

DIGITS = 'data/digit_scenes'


def prepare_data(data: str, root: str | None) -> None:
    """Makes the embedded data set, or checks that another one is there.

    Args:
        data (str): 'digits', or the name of a data set in COCO's format.
        root (str | None): Its folder; None for the one in ``data/`` that the
            configs name.

    Raises:
        FileNotFoundError: If the other data set is not there.
    """
    if data == 'digits':
        make_digit_scenes(root or DIGITS, DigitSceneParams(), workers=2)
    elif not Path(root or f'data/{data}', 'annotations').is_dir():
        raise FileNotFoundError(
            f'{data} is not in {root or f"data/{data}"}: put its folders '
            'annotations/ (COCO json) and images/ there, or name the folder '
            'with DATA_ROOT=... (make) or --data-root.'
        )


def data_options(config: Path, root: str | None) -> dict[str, str]:
    """Config options that point a config at another data folder.

    Args:
        config (Path): The config.
        root (str | None): The folder; None to leave it as it is.

    Returns:
        dict[str, str]: Values by dotted keys.
    """
    if root is None:
        return {}
    cfg = Config.fromfile(config)
    return replace_prefix(cfg.to_dict(), cfg.data_root, f'{Path(root)}/')


@cache
def identify_data(root: Path) -> str:
    """Tells data sets apart, wherever they lie.

    Args:
        root (Path): Folder of the data set, which does not change.

    Returns:
        str: A hash of what the embedded data set was made with, or of the
        names and sizes of all files.
    """
    manifest = root / MANIFEST
    if manifest.is_file():
        text = manifest.read_text()
    else:
        text = '\n'.join(
            f'{file.relative_to(root)} {file.stat().st_size}'
            for file in sorted(root.rglob('*'))
            if file.is_file()
        )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
