"""Distillation whose teacher is asked about some images only."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

from kdvit_mm.compat.patches.intact_records import RecordBuffer
from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.idle_terms import idle_terms
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.scope import in_plugin_scope
from kdvit_mm.registry import MODELS, TASK_UTILS
from kdvit_mm.selection.image_selectors import Batch, ImageSelector

Records = dict[str, list[Any]]


@MODELS.register_module()
class SelectiveTeacherDistill(LeanTeacherDistill):
    """Runs the teacher on the images that a selector chooses.

    The student's forward comes first. From what is known then the selector
    chooses; the teacher sees the chosen images alone, and is not run where
    there are none. The distill losses are computed on the chosen images and
    count by their share of the batch: a loss that is a mean over images is,
    with :class:`RandomImages`, on average what it is on all of them. With all
    images chosen this is :class:`LeanTeacherDistill`, bit for bit.

    The log has the share of images as ``teacher.asked``. ::

        model = dict(
            type='SelectiveTeacherDistill',
            selector=dict(type='RandomImages', rate=0.5),
            ...)  # as of LeanTeacherDistill

    Args:
        selector (dict): Config of the :class:`ImageSelector`.
        **kwargs: The arguments of :class:`LeanTeacherDistill`.

    Raises:
        ValueError: If the distiller has deliveries or a
            :class:`SelectedLevelsLoss`, or a loss compares the images of a
            batch that is not taken as a whole; if ``calculate_student_loss``
            is False; at the first step, if a record does not have one row per
            image.
    """

    def __init__(self, selector: dict, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.selector: ImageSelector = TASK_UTILS.build(
            in_plugin_scope(selector)
        )
        self._check_distiller()

    def _check_distiller(self) -> None:
        if not self.calculate_student_loss:
            raise ValueError(
                'SelectiveTeacherDistill: with calculate_student_loss=False '
                'a step whose teacher is not asked has no loss. Leave it out.'
            )
        if self.distiller.deliveries.deliveries:
            raise ValueError(
                'SelectiveTeacherDistill: distiller.distill_deliveries hand '
                'over from the teacher to the student, which runs first. '
                'Remove them.'
            )
        for name, loss in self.distiller.distill_losses.items():
            kind = f'distill_losses.{name} ({type(loss).__name__})'
            if getattr(loss, 'decides', False):
                raise ValueError(
                    f'SelectiveTeacherDistill: {kind} chooses from the '
                    "teacher's maps, when the teacher has been run. Choose "
                    "levels with type='LeanTeacherDistill', or images with "
                    'another loss.'
                )
            if (
                not self.selector.by_step
                and getattr(loss, 'min_images', 1) > 1
            ):
                raise ValueError(
                    f'SelectiveTeacherDistill: {kind} compares the images of '
                    f'a batch, of which {type(self.selector).__name__} may '
                    "choose one. Take selector=dict(type='EveryNthStep', "
                    "interval=2), or type='PartOfRun'."
                )

    def _losses(self, seed: int, *batch: Any) -> dict[str, torch.Tensor]:
        with self.distiller.student_recorders:
            losses = self._student_loss(*batch)
        recorders = self.distiller.student_recorders.recorders
        student = _records_of(recorders)
        weights = self.selector.choose(self._known(len(batch[0]), student))
        share = (weights > 0).float().mean()
        losses['teacher.asked'] = share.to(batch[0].device)
        asked = weights.nonzero().flatten().tolist()
        if not asked:
            return losses | idle_terms(self.distiller, {})
        with isolated_rng(seed):
            losses |= self._run_teachers_on(asked, *batch)
        losses |= self._weighted_losses(seed, weights, asked, student)
        return losses | idle_terms(
            self.distiller, self.distiller.loss_forward_mappings
        )

    def _known(self, number: int, student: Records) -> Batch:
        hub = MessageHub.get_current_instance()
        step = int(hub.get_info('iter', self._steps))
        end = hub.get_info('max_iters', 0)
        return Batch(number, step, step / end if end else 0.0, student)

    def _run_teachers_on(
        self, asked: list[int], images: torch.Tensor, samples: Any
    ) -> dict[str, torch.Tensor]:
        if len(asked) == len(images):
            return self._run_teachers(images, samples)
        whole = self._raw.data
        self._raw.data = _rows_of_raw(whole, asked)
        try:
            return self._run_teachers(
                images[asked], samples and [samples[n] for n in asked]
            )
        finally:
            self._raw.data = whole

    def _weighted_losses(
        self,
        seed: int,
        weights: torch.Tensor,
        asked: list[int],
        student: Records,
    ) -> dict[str, torch.Tensor]:
        """The sum over the groups of images that have one weight."""
        recorders = self.distiller.teacher_recorders.recorders
        teacher = _records_of(recorders)
        number = len(weights)
        total: dict[str, torch.Tensor] = {}
        for weight in weights[asked].unique().tolist():
            places = [i for i, n in enumerate(asked) if weights[n] == weight]
            rows = [asked[i] for i in places]
            _keep_rows(
                self.distiller.student_recorders.recorders,
                student,
                rows,
                number,
            )
            _keep_rows(recorders, teacher, places, len(asked))
            share = weight * len(rows) / number
            for name, loss in self._compared(seed).items():
                part = share * loss
                total[name] = total[name] + part if name in total else part
        return total


def _records_of(recorders: Mapping[str, BaseRecorder]) -> Records:
    """What was recorded; parameters and the like are no records."""
    return {
        name: [buffer.guard.hand_out(kept) for kept in buffer.kept]
        for name, recorder in recorders.items()
        if isinstance(buffer := recorder.data_buffer, RecordBuffer)
    }


def _keep_rows(
    recorders: Mapping[str, BaseRecorder],
    records: Records,
    rows: Sequence[int],
    number: int,
) -> None:
    """Puts the rows of some images in place of a batch's records."""
    if len(rows) == number:
        return
    for name, of_batch in records.items():
        kept = [_rows_of(name, x, rows, number) for x in of_batch]
        recorders[name].reset_data_buffer()
        for record in kept:
            recorders[name].data_buffer.append(record)


def _rows_of(name: str, record: Any, rows: Sequence[int], number: int) -> Any:
    if isinstance(record, torch.Tensor):
        if record.shape[:1] != (number,):
            raise ValueError(
                f'SelectiveTeacherDistill: recorder "{name}" has '
                f'{describe(record)} of {number} images, not one row per '
                'image, as the heads of two-stage detectors have. Record a '
                'module before, such as "neck".'
            )
        return record[rows]
    if isinstance(record, Mapping):
        return {k: _rows_of(name, x, rows, number) for k, x in record.items()}
    if not isinstance(record, (list, tuple)):
        return record
    if record and all(isinstance(x, BaseDataElement) for x in record):
        return [record[n] for n in rows]
    parts = [_rows_of(name, x, rows, number) for x in record]
    return parts if isinstance(record, list) else tuple(parts)


def _rows_of_raw(raw: Any, rows: Sequence[int]) -> Any:
    """The same of a batch as the data loader gave it, or of its views."""
    if isinstance(raw, Mapping):
        return {key: _rows_of_raw(x, rows) for key, x in raw.items()}
    if isinstance(raw, torch.Tensor):
        return raw[list(rows)]
    return raw and [raw[n] for n in rows]
