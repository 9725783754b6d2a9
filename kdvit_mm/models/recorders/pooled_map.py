"""Records the map that global average pooling takes."""

from typing import Any

from mmrazor.models.task_modules.recorder.module_inputs_recorder import (
    ModuleInputsRecorder,
)
from torch import nn

from kdvit_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class PooledMapRecorder(ModuleInputsRecorder):
    """Records a classifier's last map, if it is averaged and no more.

    For losses on class maps. In a config it is
    ``dict(type='kdvit_mm.PooledMap', source='neck.gap')``, and ``data_idx=0``
    in ``loss_forward_mappings``.

    Args:
        source (str): Name of the pooling, an ``nn.AdaptiveAvgPool2d`` to one
            place: ``neck.gap`` with mmpretrain's ``GlobalAveragePooling``.
    """

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Listens to the pooling.

        Args:
            model (nn.Module | None): The classifier.

        Raises:
            ValueError: If ``source`` is not a global average pooling; names
                those that there are.
        """
        assert model is not None
        modules = dict(model.named_modules())
        if not _is_global(modules.get(self.source)):
            found = [name for name, x in modules.items() if _is_global(x)][-3:]
            raise ValueError(
                f'PooledMap: {type(model).__name__} has no global average '
                f'pooling "{self.source}". Losses on class maps, CATKDLoss '
                'and ScaleDecouple, need a network that averages its last map '
                'and classifies the average. '
                + (
                    f'Set source to it, such as {", ".join(found)}.'
                    if found
                    else 'Distil its logits, such as with KDLoss.'
                )
            )
        super().prepare_from_model(model)


def _is_global(module: Any) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and (
        module.output_size in (1, (1, 1))
    )
