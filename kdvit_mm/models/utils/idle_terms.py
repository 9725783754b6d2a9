"""Parameters that no distill loss of a step uses."""

import torch
from mmengine.dist import get_world_size
from mmrazor.models.distillers import ConfigurableDistiller


def idle_terms(
    distiller: ConfigurableDistiller, mappings: dict[str, dict]
) -> dict[str, torch.Tensor]:
    """A 0 with all parameters of a distiller that no loss uses.

    DistributedDataParallel waits for every parameter's gradient, those of
    stopped losses and their connectors, too.

    Args:
        distiller (ConfigurableDistiller): The distiller.
        mappings (dict[str, dict]): The ``loss_forward_mappings`` of the losses
            that are computed.

    Returns:
        dict[str, torch.Tensor]: ``distill.loss_idle``, a scalar; empty on one
        process, or if all parameters are used.
    """
    if get_world_size() == 1:
        return {}
    connectors = {
        record.get('connector')
        for mapping in mappings.values()
        for record in mapping.values()
    }
    idle = [
        parameter
        for modules, used in (
            (distiller.distill_losses, mappings),
            (distiller.connectors, connectors),
        )
        for name, module in modules.items()
        if name not in used
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    if not idle:
        return {}
    return {'distill.loss_idle': sum(0 * p.sum() for p in idle)}
