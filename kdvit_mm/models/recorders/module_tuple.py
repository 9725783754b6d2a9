"""Records several modules as one tuple."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from torch import nn

from kdvit_mm.registry import TASK_UTILS


class _Part(NamedTuple):
    source: str
    inputs: bool = False
    record_idx: int = 0


@TASK_UTILS.register_module()
class ModuleTupleRecorder(ModuleOutputsRecorder):
    """Records maps that no single module returns together.

    For losses and connectors that take a tuple, such as :class:`FSPLoss` and
    :class:`ReviewKDConnector`: the stages before their last ReLU and the
    pooled features of a ResNet-18, for example, are ::

        dict(type='kdvit_mm.ModuleTuple', parts=[
            dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
            dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
            dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
            dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
            dict(source='neck.gap')])

    A forward gives one tuple, in the order of ``parts``.

    Args:
        parts (Sequence[dict]): Each with ``source``, the name of a module;
            ``inputs``, whether its first input is taken instead of its output
            (default False); and ``record_idx``, which of its calls in a
            forward is taken (default 0).

    Raises:
        ValueError: If a part has no source or an unknown key; or when it is
            read and a part was not called.
    """

    def __init__(self, parts: Sequence[dict]) -> None:
        try:
            self.parts = [_Part(**part) for part in parts]
        except TypeError:
            raise ValueError(
                'ModuleTuple: a part is a dict with source and, if need be, '
                f'inputs and record_idx; got {list(parts)}.'
            ) from None
        super().__init__(', '.join(self.sources))
        self._calls = [0] * len(self.parts)
        # Which part each record is of: modules may be called in any order.
        self._order: list[int] = []

    @property
    def sources(self) -> list[str]:
        """list[str]: Names of the modules."""
        return [part.source for part in self.parts]

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Listens to the modules.

        Args:
            model (nn.Module | None): The network that has them.

        Raises:
            ValueError: If it has none of a name; names the closest.
        """
        assert model is not None
        modules = dict(model.named_modules())
        for index, part in enumerate(self.parts):
            if part.source not in modules:
                # Fails as well, and says which modules there are.
                ModuleOutputsRecorder(part.source).prepare_from_model(model)
            # A bound method, so that a copy of the model feeds its own.
            hook = partial(self._take, index)
            if part.inputs:
                modules[part.source].register_forward_pre_hook(hook)
            else:
                modules[part.source].register_forward_hook(hook)

    def _take(
        self, index: int, module: nn.Module, inputs: tuple, *outputs: Any
    ) -> None:
        if not self.recording:
            return
        self._calls[index] += 1
        if self._calls[index] == self.parts[index].record_idx + 1:
            self._order.append(index)
            self.data_buffer.append(outputs[0] if outputs else inputs[0])

    def get_record_data(
        self, record_idx: int = 0, data_idx: int | None = None
    ) -> Any:
        """Gives what was recorded.

        Args:
            record_idx (int): Has to be 0, the only tuple. Defaults to 0.
            data_idx (int | None): Index of a part. Defaults to None, all.

        Returns:
            Any: A tuple of all parts, or a part.

        Raises:
            ValueError: If a part was not called, or not often enough.
        """
        missing = [
            f'"{part.source}" (record_idx={part.record_idx}, called {calls} '
            'times)'
            for part, calls in zip(self.parts, self._calls, strict=True)
            if calls <= part.record_idx
        ]
        if missing or record_idx:
            raise ValueError(
                'ModuleTuple has one record, number 0, of all its parts; '
                f'asked for {record_idx}, not called: '
                f'{", ".join(missing) or "none"}.'
            )
        places = [self._order.index(index) for index in range(len(self.parts))]
        read = super().get_record_data
        records = tuple(read(place) for place in places)
        return records if data_idx is None else records[data_idx]

    def __enter__(self) -> None:
        """Starts to record a forward."""
        super().__enter__()
        self._calls = [0] * len(self.parts)
        self._order = []
