"""What an image's levels were worth when it was seen before."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

#: Stands for an image without an id.
NO_IMAGE = -1


class QualityMemory:
    """Keeps the mean quality of each level of each image.

    What is measured of an image is mostly noise, but what is left differs
    between images, lasts over augmentations and epochs, and is hardly seen in
    the image itself: it can only be remembered.

    Args:
        num_levels (int): Number of pyramid levels, L.
    """

    def __init__(self, num_levels: int) -> None:
        self._rows: dict[int, int] = {}
        self._sums = torch.zeros(0, num_levels)
        self._counts = torch.zeros(0, num_levels)

    def recall(self, images: torch.Tensor) -> torch.Tensor:
        """What the levels of images are expected to be worth.

        Args:
            images (torch.Tensor): Keys of the images, of shape (N,).

        Returns:
            torch.Tensor: Shape (N, L). Of n qualities known of an image and
            level, their mean drawn by 1 / (n + 1) to the level's mean over
            all images; NaN for a level of which nothing is known.
        """
        mean = self._sums.sum(0) / self._counts.sum(0)
        expected = mean.repeat(len(images), 1)
        for n, key in enumerate(images.tolist()):
            row = self._rows.get(key)
            if row is not None:
                count = self._counts[row] + 1
                expected[n] = (self._sums[row] + mean) / count
        return expected.to(images.device)

    def update(self, images: torch.Tensor, quality: torch.Tensor) -> None:
        """Takes qualities in.

        Args:
            images (torch.Tensor): Keys of the images, of shape (n,).
            quality (torch.Tensor): Quality of each level, of shape (n, L),
                NaN where it is not known.
        """
        keys = images.tolist()
        known = [key for key in dict.fromkeys(keys) if key != NO_IMAGE]
        new = [key for key in known if key not in self._rows]
        self._rows |= {key: len(self._rows) + n for n, key in enumerate(new)}
        more = self._sums.new_zeros(len(new), self._sums.size(1))
        self._sums = torch.cat([self._sums, more])
        self._counts = torch.cat([self._counts, more])
        for key, values in zip(keys, quality.float().cpu(), strict=True):
            if key != NO_IMAGE:
                self._sums[self._rows[key]] += values.nan_to_num(0.0)
                self._counts[self._rows[key]] += values.isfinite()

    def state(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            'images': list(self._rows),
            'sums': self._sums.clone(),
            'counts': self._counts.clone(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave.

        Args:
            state (dict): The state.
        """
        self._rows = {key: row for row, key in enumerate(state['images'])}
        self._sums = state['sums'].cpu().clone()
        self._counts = state['counts'].cpu().clone()


def image_keys(data_samples: Sequence[Any] | None) -> torch.Tensor | None:
    """Numbers that tell the images of a data set apart.

    Args:
        data_samples (Sequence[Any] | None): Their samples, with ``img_id``,
            ``img_path`` or both in the meta information. Ids may repeat
            between the parts of a data set, and a path changes where the data
            set is moved to: so the id and the path's last two names count.

    Returns:
        torch.Tensor | None: Integers of shape (N,), :data:`NO_IMAGE` for an
        image with neither; None where there are no samples.
    """
    if data_samples is None:
        return None
    keys = []
    for sample in data_samples:
        meta = sample.metainfo
        path = Path(meta.get('img_path') or '')
        names = [meta.get('img_id'), *path.parts[-2:]]
        if names == [None]:
            keys.append(NO_IMAGE)
        else:
            name = '/'.join(map(str, names)).encode()
            digest = blake2b(name, digest_size=7).digest()
            keys.append(int.from_bytes(digest, 'big'))
    return torch.tensor(keys, dtype=torch.long)
