"""Ends a teacher's forward as soon as all records are in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmrazor.models.distillers import ConfigurableDistiller

from kdvit_mm.compat.patches.intact_records import RecordBuffer
from kdvit_mm.models.recorders.module_tuple import sources_of


class _LastRecordIn(BaseException):
    """Leaves the teacher's forward once all records are in.

    No ``Exception``: a model may handle those.
    """


@contextmanager
def until_last_record(
    distiller: ConfigurableDistiller,
    settle: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[None]:
    """Records the teacher's forward inside and leaves it at the last record.

    Args:
        distiller (ConfigurableDistiller): The distiller, whose teacher
            recorders and deliveries are entered.
        settle (Callable | None): Applied to every recorded tensor. Defaults
            to None.
    """
    recorders = distiller.teacher_recorders.recorders
    deliveries = distiller.deliveries.deliveries.values()
    wanted = wanted_records(distiller)

    def notify() -> None:
        if (
            wanted is not None
            and all(
                len(recorders[name].data_buffer) >= count
                for name, count in wanted.items()
            )
            and all(len(d.data_queue) == d.max_keep_data for d in deliveries)
        ):
            raise _LastRecordIn

    for delivery in deliveries:
        delivery.data_queue.clear()
        delivery.data_queue.notify = notify
    with distiller.teacher_recorders, distiller.deliveries:
        buffers = [
            recorder.data_buffer
            for recorder in recorders.values()
            if isinstance(recorder.data_buffer, RecordBuffer)
        ]
        for buffer in buffers:
            buffer.notify, buffer.settle = notify, settle
        try:
            yield
        except _LastRecordIn:
            pass
        finally:
            for listener in (*buffers, *(d.data_queue for d in deliveries)):
                listener.notify = None


def wanted_records(distiller: ConfigurableDistiller) -> dict[str, int] | None:
    """Counts the records of the teacher that the distill losses need.

    Args:
        distiller (ConfigurableDistiller): The distiller.

    Returns:
        dict[str, int] | None: The number of records by recorder, or None
        where the distiller computes its losses in a way of its own.
    """
    own = type(distiller).compute_distill_losses
    if own is not ConfigurableDistiller.compute_distill_losses:
        return None
    wanted = {
        name: len(sources_of(recorder))
        for name, recorder in distiller.teacher_recorders.recorders.items()
    }
    for mapping in distiller.loss_forward_mappings.values():
        for record in mapping.values():
            if not record['from_student']:
                name = record['recorder']
                index = record.get('record_idx', 0)
                wanted[name] = max(wanted[name], index + 1)
    return wanted
