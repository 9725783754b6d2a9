"""Records of a frozen teacher, kept for images that come back."""

import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.models.task_modules.recorder.param_recorder import (
    ParameterRecorder,
)
from torch import nn

from kdvit_mm.compat.patches.intact_records import RecordBuffer, tensors_of
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.last_record import wanted_records
from kdvit_mm.models.utils.record_store import RecordStore
from kdvit_mm.registry import TASK_UTILS

# What a record may hold besides tensors.
PLAIN = (bool, int, float, str, type(None))
Batch = tuple[torch.Tensor, list[BaseDataElement] | None]


@TASK_UTILS.register_module()
class TeacherCache:
    """Spares the teacher the images that it has seen with the same pixels.

    A record is looked up by the teacher (weights, config, code, recorders and
    the options that change its numbers) and by what it sees of an image: the
    pixels with their padding, and the sample's metainfo. A teacher with a
    cache sees no ground truth. So a record of another teacher or image is
    never used. Functions that the teacher calls, but that are not in the
    files of its modules' classes, are not part of the key.

    A record is rounded to ``dtype`` whether it was just computed or read:
    training does not depend on what is in the cache.

    Args:
        dir (str): Folder of the records, which ranks and runs may share.
        dtype (str): Precision in which floating point records are kept, such
            as ``'bfloat16'`` or, exactly, ``'float32'``. A record beyond the
            range of the dtype is kept as it is. Defaults to ``'float16'``.
        max_bytes (int): The most that the folder may take; the oldest records
            are removed first. Defaults to 50 GiB.
        levels (Sequence[int] | None): Which entries of every record, a tuple
            of maps, are kept, 0 being the first. The others are not recorded,
            so no distill loss may read them. Defaults to None, all.
        strict (bool): Whether training is refused where no image comes back,
            such as with random crops. Defaults to False.

    Raises:
        ValueError: If ``dtype`` or ``max_bytes`` is none.
    """

    def __init__(
        self,
        dir: str,
        dtype: str = 'float16',
        max_bytes: int = 50 * 2**30,
        levels: Sequence[int] | None = None,
        strict: bool = False,
    ) -> None:
        kind = getattr(torch, dtype, None)
        if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            raise ValueError(
                f"cache: dtype '{dtype}' is not a floating point dtype of "
                "torch; write 'float16', 'bfloat16' or 'float32'."
            )
        if max_bytes <= 0:
            raise ValueError(
                f'cache: max_bytes is {max_bytes}, which keeps no record. '
                'Drop model.cache to train without one.'
            )
        self.dtype = kind
        self.levels = None if levels is None else sorted(set(levels))
        self.strict = strict
        self.store = RecordStore(dir, max_bytes)
        self._description = ''
        self._state: tuple = ()
        self._group = ''
        self._proven = ''

    def prepare(
        self,
        distiller: ConfigurableDistiller,
        recorders: Mapping[str, BaseRecorder],
        description: str,
    ) -> None:
        """Checks that nothing is distilled that is not kept.

        Args:
            distiller (ConfigurableDistiller): The distiller.
            recorders (Mapping[str, BaseRecorder]): Its recorders of this
                teacher, by name.
            description (str): What its records depend on, besides weights and
                code of the teacher.

        Raises:
            ValueError: If the distiller has deliveries, or a loss reads an
                entry of a record that is not in ``levels``.
        """
        self._description = description
        if distiller.deliveries.deliveries:
            raise ValueError(
                'cache: distiller.distill_deliveries hand over what the '
                'teacher computes on its way, which is not kept. Drop '
                'model.cache or the deliveries.'
            )
        for loss, mapping in distiller.loss_forward_mappings.items():
            for key, record in mapping.items():
                if (
                    self.levels is None
                    or record['from_student']
                    or record['recorder'] not in recorders
                    or isinstance(
                        recorders[record['recorder']], ParameterRecorder
                    )
                    or record.get('data_idx') in self.levels
                ):
                    continue
                raise ValueError(
                    f'cache: loss_forward_mappings.{loss}.{key} reads '
                    f'data_idx={record.get("data_idx")}, but only levels='
                    f'{self.levels} are recorded. Drop the loss, set its '
                    'data_idx to one of these, or leave cache.levels out.'
                )

    def record(
        self,
        distiller: ConfigurableDistiller,
        recorders: Mapping[str, BaseRecorder],
        teacher: nn.Module,
        batch: Batch,
        run: Callable[[torch.Tensor, Any], None],
    ) -> float:
        """Fills the teacher's recorders, from the folder where it can.

        Args:
            distiller (ConfigurableDistiller): The distiller.
            recorders (Mapping[str, BaseRecorder]): Its recorders of this
                teacher, by name.
            teacher (nn.Module): The teacher.
            batch (tuple): Images of shape (N, C, H, W), and their samples,
                without ground truth, or None.
            run (Callable): Runs the teacher on images and samples, which
                fills the recorders.

        Returns:
            float: Share of the images whose records were in the folder.

        Raises:
            ValueError: If a record does not have one row per image, or
                depends on the other images of the batch.
        """
        images, samples = batch
        wanted = str(wanted_records(distiller, recorders))
        group = self._find_group(wanted, teacher, images.device)
        if group != self._proven:
            self._prove(recorders, images, samples, run)
            self._proven = group
        names = [
            image_key(image, None if samples is None else samples[n])
            for n, image in enumerate(images)
        ]
        rows: list[Any] = [self.store.get(group, name) for name in names]
        missing = [n for n, row in enumerate(rows) if row is None]
        if missing:
            run(*_chosen(images, samples, missing))
            found = self._rows(recorders, len(missing))
            for n, row in zip(missing, found, strict=True):
                rows[n] = row
                self.store.put(group, names[n], _mapped(row, torch.Tensor.cpu))
        _replay(recorders, rows, images.device)
        return 1 - len(missing) / len(images)

    def _find_group(
        self, wanted: str, teacher: nn.Module, device: torch.device
    ) -> str:
        """Stands for all that records depend on besides the image."""
        weights = [*teacher.parameters(), *teacher.buffers()]
        one = torch.ones(1, 1, device=device)
        state = (
            device.type,
            wanted,
            # Of autocast around the training step.
            str((one @ one).dtype),
            [(weight.data_ptr(), weight._version) for weight in weights],
        )
        if state != self._state:
            digest = blake2b(digest_size=16)
            _update(digest, [torch.__version__, self._description, state[:3]])
            _update(digest, [str(self.dtype), self.levels, _code_of(teacher)])
            for name, weight in (
                *teacher.named_parameters(),
                *teacher.named_buffers(),
            ):
                _update(digest, [name, weight])
            self._state, self._group = state, digest.hexdigest()
        return self._group

    def _prove(
        self,
        recorders: Mapping[str, BaseRecorder],
        images: torch.Tensor,
        samples: list[BaseDataElement] | None,
        run: Callable[[torch.Tensor, Any], None],
    ) -> None:
        """Checks that an image's record is the same alone and in a batch."""
        if len(images) == 1:
            images = torch.cat([images, images.flip(-1)])
            samples = samples and samples * 2
        run(images, samples)
        in_batch = self._rows(recorders, len(images))[0]['records']
        run(*_chosen(images, samples, [0]))
        alone = self._rows(recorders, 1)[0]['records']
        for name in in_batch:
            shapes, other_shapes = (
                _mapped(record[name], lambda x: tuple(x.shape))
                for record in (in_batch, alone)
            )
            error = float(shapes != other_shapes)
            if not error:
                pairs = zip(
                    tensors_of(in_batch[name]),
                    tensors_of(alone[name]),
                    strict=True,
                )
                error = max((_difference(*pair) for pair in pairs), default=0)
            # More than other kernels for other batch sizes make.
            if error > 0.05:
                raise ValueError(
                    f'cache: the record of teacher_recorders.{name} of an '
                    'image depends on the other images of its batch: alone '
                    f'it differs by {error:.1%}. Drop model.cache, or record '
                    'another module of the teacher.'
                )

    def _rows(
        self, recorders: Mapping[str, BaseRecorder], number: int
    ) -> list[dict[str, Any]]:
        """Takes the records of each image out of the recorders."""
        records: dict[str, Any] = {}
        for name, recorder in recorders.items():
            buffer = recorder.data_buffer
            # Parameters and modules are there without a forward.
            if not isinstance(buffer, RecordBuffer):
                continue
            intact = [buffer.guard.hand_out(x) for x in buffer.kept]
            kept = [self._of_levels(name, record) for record in intact]
            found = tensors_of(kept)
            try:
                wrong = [x for x in found if x.shape[:1] != (number,)]
                records[name] = _mapped(kept, lambda x: x)
            except TypeError as error:
                raise ValueError(
                    f'cache: teacher_recorders.{name} records {error}, which '
                    'is not kept. Record it of the student, or drop '
                    'model.cache.'
                ) from None
            if wrong:
                raise ValueError(
                    f'cache: teacher_recorders.{name} records '
                    f'{describe(wrong[0])} of {number} images, not one row '
                    'per image, as the heads of two-stage detectors do. '
                    'Record a module before, such as "neck", or drop '
                    'model.cache.'
                )
        dtypes = [tensor.dtype for tensor in tensors_of(records)]

        def row(n: int) -> Any:
            return _mapped(records, lambda x: self._rounded(x[n]))

        return [{'records': row(n), 'dtypes': dtypes} for n in range(number)]

    def _of_levels(self, name: str, record: Any) -> Any:
        if self.levels is None:
            return record
        if not (
            isinstance(record, (list, tuple))
            and set(self.levels) <= set(range(len(record)))
        ):
            raise ValueError(
                f'cache: levels={self.levels} are not in the record '
                f'{describe(record)} of teacher_recorders.{name}. Set levels '
                'to entries that it has, or leave cache.levels out.'
            )
        return [x if n in self.levels else None for n, x in enumerate(record)]

    def _rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the dtype that is kept."""
        if (
            tensor.is_floating_point()
            and torch.finfo(tensor.dtype).bits > torch.finfo(self.dtype).bits
        ):
            rounded = tensor.to(self.dtype).contiguous()
            if torch.equal(rounded.isfinite(), tensor.isfinite()):
                return rounded
        # No view, of which torch.save would write the whole.
        return tensor.clone(memory_format=torch.contiguous_format)


def image_key(image: torch.Tensor, sample: BaseDataElement | None) -> str:
    """Stands for what a teacher sees of an image.

    Args:
        image (torch.Tensor): Its pixels with their padding, of shape
            (C, H, W).
        sample (BaseDataElement | None): Its sample, whose metainfo is seen.

    Returns:
        str: The digest in hexadecimal digits.
    """
    digest = blake2b(digest_size=16)
    _update(digest, image)
    if sample is not None:
        _update(digest, sorted(sample.metainfo.items()))
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Takes a value into a digest, by what it is and not where it is."""
    if isinstance(value, torch.Tensor):
        digest.update(f'{value.dtype}{tuple(value.shape)}'.encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f'{value.dtype}{value.shape}'.encode())
        digest.update(value.tobytes())
    elif isinstance(value, dict):
        _update(digest, [*value.items()])
    elif isinstance(value, (list, tuple)):
        digest.update(f'{len(value)}:'.encode())
        for part in value:
            _update(digest, part)
    else:
        text = repr(value).encode()
        digest.update(f'{len(text)}:'.encode() + text)


def _code_of(model: nn.Module) -> list[str]:
    """Digests of the files with the classes of a model's modules."""
    files = {
        getattr(sys.modules.get(cls.__module__), '__file__', None)
        for module in model.modules()
        for cls in type(module).__mro__
    }
    return sorted(
        blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
        for file in files
        if file
    )


def _mapped(record: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Applies a function to the tensors of plain lists, tuples and dicts.

    Raises:
        TypeError: If there is something else, which could not be kept.
    """
    if isinstance(record, torch.Tensor):
        return function(record)
    if isinstance(record, dict):
        return {key: _mapped(x, function) for key, x in record.items()}
    if isinstance(record, (list, tuple)):
        parts = [_mapped(x, function) for x in record]
        return tuple(parts) if isinstance(record, tuple) else parts
    if not isinstance(record, (*PLAIN, torch.dtype)):
        raise TypeError(f'a {type(record).__name__}')
    return record


def _chosen(
    images: torch.Tensor,
    samples: list[BaseDataElement] | None,
    chosen: list[int],
) -> tuple[torch.Tensor, list[BaseDataElement] | None]:
    return images[chosen], samples and [samples[n] for n in chosen]


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest magnitude."""
    one, other = one.double(), other.double()
    scale = max(float(one.abs().max()), 1e-6) if one.numel() else 1.0
    return float((one - other).abs().max()) / scale if one.numel() else 0.0


def _replay(
    recorders: Mapping[str, BaseRecorder],
    rows: list[dict[str, Any]],
    device: torch.device,
) -> None:
    """Hands records to the recorders as if the teacher had just run."""
    dtypes = iter(rows[0]['dtypes'])

    def join(parts: Sequence[Any]) -> Any:
        first = parts[0]
        if isinstance(first, torch.Tensor):
            dtype = next(dtypes)
            return torch.stack([part.to(device, dtype) for part in parts])
        if isinstance(first, dict):
            return {key: join([part[key] for part in parts]) for key in first}
        if isinstance(first, (list, tuple)):
            joined = [join(group) for group in zip(*parts, strict=True)]
            return tuple(joined) if isinstance(first, tuple) else joined
        return first

    records = join([row['records'] for row in rows])
    for name, buffer in records.items():
        recorders[name].reset_data_buffer()
        for record in buffer:
            recorders[name].data_buffer.append(record)
