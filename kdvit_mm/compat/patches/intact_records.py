"""A record is what the module returned, whatever happens to it afterwards.

Breaks: ``out += identity``, in-place activations and any other in-place
operation overwrite a record after it was taken, so that a distill loss
compares other maps than its config names, silently. Inputs are recorded
after the call, when the call may have overwritten them.
Since: mmrazor 0.1. Upstream: ``BaseRecorder`` and ``DistillDelivery`` at
1.0.0 keep the tensors themselves.
Can go: when mmrazor copies what is overwritten.

In its first forward every recorder keeps copies, too, and notes the versions
of the tensors. Afterwards only what was overwritten is copied, so that it
costs nothing where nothing is overwritten. A record that is overwritten later
on is noticed when it is read: :class:`OverwrittenRecord` is raised, and copies
are kept from then on. Deliveries are treated alike.
"""

import copy
import functools
from collections import deque
from collections.abc import Callable, Sequence
from inspect import signature
from types import ModuleType
from typing import Any, NamedTuple

import torch


def needed() -> bool:
    """Always: the behaviour is the same with every torch."""
    return True


def apply(module: ModuleType) -> None:
    """Guards the buffers, or records inputs before the call."""
    name = module.__name__.rpartition('.')[2]
    {
        'base_recorder': _patch_recorder,
        'module_inputs_recorder': _patch_module_inputs,
        'method_inputs_recorder': _patch_method_inputs,
        'function_inputs_recorder': _patch_function_inputs,
        'distill_delivery': _patch_delivery,
    }[name](module)


class OverwrittenRecord(RuntimeError):
    """A record was overwritten in place before it was read."""


def map_tensors(record: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Applies a function to the tensors of nested lists, tuples and dicts."""
    if isinstance(record, torch.Tensor):
        return function(record)
    if isinstance(record, dict):
        items = {k: map_tensors(v, function) for k, v in record.items()}
        try:
            return type(record)(items)
        except TypeError:  # such as a defaultdict
            return items
    if isinstance(record, (list, tuple)):
        parts = [map_tensors(item, function) for item in record]
        if hasattr(record, '_fields'):
            return type(record)(*parts)
        mapped = type(record)(parts)
        if hasattr(record, '__dict__'):
            vars(mapped).update(vars(record))
        return mapped
    return record


def tensors_of(record: Any) -> list[torch.Tensor]:
    """The tensors of nested lists, tuples and dicts."""
    tensors: list[torch.Tensor] = []
    map_tensors(record, tensors.append)
    return tensors


def _copied(record: Any) -> Any:
    if not torch.is_inference_mode_enabled():
        return map_tensors(record, torch.clone)
    # An inference tensor counts no versions, and autograd refuses it.
    with torch.inference_mode(False), torch.no_grad():
        return map_tensors(record, torch.clone)


class Kept(NamedTuple):
    """A record as it is stored.

    Attributes:
        original (Any): What was recorded, which may be overwritten.
        copied (Any): A copy of it, or itself where no copies are kept.
        versions (list[tuple[torch.Tensor, int]]): The tensors to compare
            later, with their versions when they were recorded.
    """

    original: Any
    copied: Any
    versions: list[tuple[torch.Tensor, int]]

    @property
    def intact(self) -> bool:
        """Whether the original has not been overwritten."""
        return all(t._version == version for t, version in self.versions)


class Guard:
    """Watches what one recorder or delivery keeps.

    Args:
        owner (str): What to call it in messages.

    Attributes:
        copies (bool): Whether copies are kept.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.relearn()

    def relearn(self) -> None:
        """Keeps copies until the next forward has shown if they are needed."""
        self.copies = self._learning = True

    def learn(self, records: Sequence[Kept]) -> None:
        """Draws the conclusion from a forward that recorded something."""
        if self._learning and any(kept.versions for kept in records):
            self._learning = False
            self.copies = not all(kept.intact for kept in records)

    def keep(self, record: Any) -> 'Kept':
        """Takes what must be stored of a record."""
        if torch.is_inference_mode_enabled():
            record = copied = _copied(record)
        elif self.copies:
            copied = _copied(record)
        else:
            copied = record
        if self.copies and not self._learning:
            return Kept(copied, copied, [])
        return Kept(
            record, copied, [(t, t._version) for t in tensors_of(record)]
        )

    def gives_original(self, kept: Kept) -> bool:
        """Whether readers get the record itself, and no copy of it."""
        return kept.intact and (self._learning or not self.copies)

    def hand_out(self, kept: Kept) -> Any:
        """Gives what was recorded.

        A copy is given only where it is needed, so that gradients are summed
        in the same order in the first forward as in all others.

        Raises:
            OverwrittenRecord: If it was overwritten and there is no copy.
        """
        if self.gives_original(kept):
            return kept.original
        if not self.copies:
            self.copies = True
            raise OverwrittenRecord(
                f'{self.owner} was overwritten by an in-place operation after '
                'it was recorded, which did not happen in the first forward. '
                'Copies are kept from now on: compute this step again. '
                'LeanTeacherDistill does so by itself.'
            )
        # Who reads it, such as an in-place connector, must not change it.
        return _copied(kept.copied)


class RecordBuffer(list):
    """The records of one forward.

    Args:
        guard (Guard): The recorder's guard.

    Attributes:
        notify (Callable | None): Called after every record.
        settle (Callable | None): Applied to every recorded tensor.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        self.kept: list[Kept] = []
        self.notify: Callable[[], None] | None = None
        self.settle: Callable[[torch.Tensor], torch.Tensor] | None = None

    def append(self, record: Any) -> None:
        """Keeps a record."""
        if self.settle is not None:
            record = map_tensors(record, self.settle)
        kept = self.guard.keep(record)
        self.kept.append(kept)
        super().append(kept.copied)
        if self.notify is not None:
            self.notify()

    def __deepcopy__(self, memo: dict) -> 'RecordBuffer':
        """Leaves the records behind: they belong to the graph of a step."""
        return RecordBuffer(copy.deepcopy(self.guard, memo))


class DeliveryQueue(deque):
    """What a delivery hands over, checked in the same way.

    Args:
        maxlen (int): The most items that it holds.
        guard (Guard): The delivery's guard.

    Attributes:
        notify (Callable | None): Called after every item.
    """

    def __init__(self, maxlen: int, guard: Guard) -> None:
        super().__init__([], maxlen)
        self.guard = guard
        self.handed_over: list[Kept] = []
        self.notify: Callable[[], None] | None = None

    def append(self, item: Any) -> None:
        """Keeps an item."""
        super().append(self.guard.keep(item))
        if self.notify is not None:
            self.notify()

    def popleft(self) -> Any:
        """Hands the oldest item over, after the check that it is intact."""
        kept = super().popleft()
        item = self.guard.hand_out(kept)
        self.handed_over.append(kept)
        if not self:
            self.guard.learn(self.handed_over)
            self.handed_over = []
        return item

    def __deepcopy__(self, memo: dict) -> 'DeliveryQueue':
        """Leaves the items behind: they belong to the graph of a step."""
        assert self.maxlen is not None
        return DeliveryQueue(self.maxlen, copy.deepcopy(self.guard, memo))


def is_untouched(recorder: Any) -> bool:
    """Whether the network went on with the very tensors that are recorded.

    Args:
        recorder (BaseRecorder): The recorder, after a forward.

    Returns:
        bool: False where a record was overwritten, and readers get a copy.
    """
    buffer = recorder.data_buffer
    return not isinstance(buffer, RecordBuffer) or all(
        buffer.guard.gives_original(kept) for kept in buffer.kept
    )


def guard_of(owner: Any, source: str) -> Guard:
    """The guard of a recorder or delivery, made when it is first needed."""
    if '_guard' not in vars(owner):
        owner._guard = Guard(f'{type(owner).__name__} of "{source}"')
    return owner._guard


def _patch_recorder(module: Any) -> None:
    recorder = module.BaseRecorder
    get_record_data = recorder.get_record_data

    def reset_data_buffer(self: Any) -> None:
        if isinstance(self._data_buffer, RecordBuffer):
            self._data_buffer.guard.learn(self._data_buffer.kept)
        self._data_buffer = RecordBuffer(guard_of(self, self.source))

    @functools.wraps(get_record_data)
    def get_intact_data(
        self: Any, record_idx: int = 0, data_idx: int | None = None
    ) -> Any:
        buffer = self._data_buffer
        if not (isinstance(buffer, RecordBuffer) and record_idx < len(buffer)):
            return get_record_data(self, record_idx, data_idx)
        reader = copy.copy(self)
        reader._data_buffer = [buffer.guard.hand_out(buffer.kept[record_idx])]
        return get_record_data(reader, 0, data_idx)

    recorder.reset_data_buffer = reset_data_buffer
    recorder.get_record_data = get_intact_data


def _patch_module_inputs(module: Any) -> None:
    recorder = module.ModuleInputsRecorder
    prepare = recorder.prepare_from_model

    def prepare_from_model(self: Any, model: Any = None) -> None:
        modules = {} if model is None else dict(model.named_modules())
        if self.source not in modules:
            prepare(self, model)  # raises and says which modules there are
        # A bound method, so that a copy of the model feeds its own recorder.
        modules[self.source].register_forward_pre_hook(self.forward_pre_hook)

    def forward_pre_hook(self: Any, module: Any, inputs: tuple) -> None:
        self.forward_hook(module, inputs, None)

    recorder.prepare_from_model = prepare_from_model
    recorder.forward_pre_hook = forward_pre_hook


def _recording_inputs(
    call: Callable, data_buffer: list, skipped: int
) -> Callable:
    names = signature(call).parameters.keys()

    @functools.wraps(call)
    def record_and_call(*args: Any, **kwargs: Any) -> Any:
        named = [kwargs[name] for name in names if name in kwargs]
        data_buffer.append([*args[skipped:], *named])
        return call(*args, **kwargs)

    return record_and_call


def _patch_method_inputs(module: Any) -> None:
    def method_record_wrapper(
        self: Any, orgin_method: Callable, data_buffer: list
    ) -> Callable:
        return _recording_inputs(orgin_method, data_buffer, skipped=1)

    module.MethodInputsRecorder.method_record_wrapper = method_record_wrapper


def _patch_function_inputs(module: Any) -> None:
    def func_record_wrapper(
        self: Any, origin_func: Callable, data_buffer: list
    ) -> Callable:
        return _recording_inputs(origin_func, data_buffer, skipped=0)

    module.FunctionInputsRecorder.func_record_wrapper = func_record_wrapper


def _patch_delivery(module: Any) -> None:
    delivery = module.DistillDelivery
    init = delivery.__init__

    @functools.wraps(init)
    def init_with_guard(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        guard = Guard(f'what {type(self).__name__} hands over')
        self.data_queue = DeliveryQueue(self.max_keep_data, guard)

    delivery.__init__ = init_with_guard
