"""Ends a teacher's forward as soon as all records are in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

from kdvit_mm.compat.patches.intact_records import RecordBuffer
from kdvit_mm.models.recorders.module_tuple import sources_of


class _LastRecordIn(BaseException):
    """Leaves the teacher's forward once all records are in.

    No ``Exception``: a model may handle those.
    """


@contextmanager
def until_last_record(
    distiller: ConfigurableDistiller,
    recorders: Mapping[str, BaseRecorder],
    settle: Callable[[torch.Tensor], torch.Tensor] | None = None,
    to_the_end: bool = False,
) -> Iterator[None]:
    """Records a teacher's forward inside and leaves it at the last record.

    Args:
        distiller (ConfigurableDistiller): The distiller, whose deliveries are
            entered.
        recorders (Mapping[str, BaseRecorder]): Its recorders of this teacher,
            by name.
        settle (Callable | None): Applied to every recorded tensor. Defaults
            to None.
        to_the_end (bool): Whether the forward is not left. Defaults to False.
    """
    deliveries = distiller.deliveries.deliveries.values()
    wanted = None if to_the_end else wanted_records(distiller, recorders)

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
    with ExitStack() as stack:
        for context in (*recorders.values(), distiller.deliveries):
            stack.enter_context(context)
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


def wanted_records(
    distiller: ConfigurableDistiller, recorders: Mapping[str, BaseRecorder]
) -> dict[str, int] | None:
    """Counts the records of a teacher that the distill losses need.

    Args:
        distiller (ConfigurableDistiller): The distiller.
        recorders (Mapping[str, BaseRecorder]): Its recorders of this teacher,
            by name.

    Returns:
        dict[str, int] | None: The number of records by recorder, or None
        where the distiller computes its losses in a way of its own.
    """
    own = type(distiller).compute_distill_losses
    if own is not ConfigurableDistiller.compute_distill_losses:
        return None
    wanted = {
        name: len(sources_of(recorder)) for name, recorder in recorders.items()
    }
    for mapping in distiller.loss_forward_mappings.values():
        for record in mapping.values():
            name = record['recorder']
            if not record['from_student'] and name in wanted:
                index = record.get('record_idx', 0)
                wanted[name] = max(wanted[name], index + 1)
    return wanted
