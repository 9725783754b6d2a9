"""A recorder of a module itself."""

from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from mmrazor.models.task_modules.recorder.param_recorder import (
    ParameterRecorder,
)
from torch import nn

from kdvit_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class ModuleRecorder(ParameterRecorder):
    """Hands a module over, for a loss that runs it on inputs of its own.

    As with mmrazor's ``ParameterRecorder`` the record is there before any
    forward and stays: no forward is run, or run longer, for it. In a config
    it is ``dict(type='kdvit_mm.Module', source='roi_head')``.

    Args:
        source (str): Name of the module, as in ``model.named_modules()``.
    """

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Takes the module.

        Args:
            model (nn.Module | None): The network that has the module.

        Raises:
            AssertionError: If it has none of that name; names the closest.
        """
        assert model is not None
        modules = dict(model.named_modules())
        if self.source not in modules:
            # Fails as well, and says which modules there are.
            ModuleOutputsRecorder(self.source).prepare_from_model(model)
        self.data_buffer.append(modules[self.source])
