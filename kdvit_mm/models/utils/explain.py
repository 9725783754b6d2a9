"""Says in words why a distill loss cannot be computed."""

from typing import Any

import torch
from mmrazor.models.distillers import ConfigurableDistiller


def describe(record: Any) -> str:
    """Shape of a record, such as ``(2, 256, 40, 64)`` or a list of them."""
    if isinstance(record, torch.Tensor):
        return str(tuple(record.shape))
    if isinstance(record, (list, tuple)):
        return f'[{", ".join(describe(item) for item in record)}]'
    return type(record).__name__


def connector_line(name: str, student: Any, teacher: Any) -> str | None:
    """The config line of a connector that gives two records equal channels.

    Args:
        name (str): Name of the distill loss, from which the connector's is
            made.
        student (Any): The student's record.
        teacher (Any): The teacher's record.

    Returns:
        str | None: The line, or None where the channels are equal or the
        records are not maps of shape (N, C, H, W).
    """
    if not (
        isinstance(student, torch.Tensor)
        and isinstance(teacher, torch.Tensor)
        and student.dim() == teacher.dim() == 4
        and student.size(1) != teacher.size(1)
    ):
        return None
    return (
        f"connectors=dict({name}_s=dict(type='ConvModuleConnector', "
        f'in_channel={student.size(1)}, out_channel={teacher.size(1)}, '
        f"act_cfg=None)) and connector='{name}_s' in "
        f'loss_forward_mappings.{name}.preds_S (a connector takes one map: '
        'give each level a loss with a data_idx and a connector)'
    )


def collect_inputs(
    distiller: ConfigurableDistiller, loss_name: str
) -> dict[str, Any]:
    """Arguments that a distill loss gets, connectors applied.

    Args:
        distiller (ConfigurableDistiller): The distiller after a forward of
            student and teacher.
        loss_name (str): A key of ``loss_forward_mappings``.

    Raises:
        ValueError: If a record is not there or does not fit its connector.
    """
    inputs = {}
    for key, mapping in distiller.loss_forward_mappings[loss_name].items():
        try:
            inputs[key] = distiller.get_record(**mapping)
        except Exception as error:
            raw = dict(mapping, connector=None, connector_idx=None)
            where = f'loss_forward_mappings.{loss_name}.{key}'
            try:
                found = describe(distiller.get_record(**raw))
            except Exception:
                side = 'student' if mapping['from_student'] else 'teacher'
                raise ValueError(
                    f'{where}: no such record in {side}_recorders.'
                    f'{mapping["recorder"]}: {error}'
                ) from error
            raise ValueError(
                f'{where}: connector "{mapping.get("connector")}" does not '
                f'take the record of shape {found}: {error}'
            ) from error
    return inputs


def explain_failure(
    distiller: ConfigurableDistiller, error: Exception
) -> Exception:
    """Finds the distill loss that failed and says what to change.

    Args:
        distiller (ConfigurableDistiller): The distiller whose
            ``compute_distill_losses`` raised.
        error (Exception): What it raised.

    Returns:
        Exception: An error that names loss, shapes and, where one helps, the
        connector to add.
    """
    for name in distiller.loss_forward_mappings:
        try:
            inputs = collect_inputs(distiller, name)
        except ValueError as explained:
            return explained
        try:
            distiller.distill_losses[name](**inputs)
        except Exception as failure:
            shapes = ', '.join(f'{k} {describe(v)}' for k, v in inputs.items())
            message = (
                f'distill loss "{name}" '
                f'({type(distiller.distill_losses[name]).__name__}) failed '
                f'on {shapes}: {failure}'
            )
            line = connector_line(
                name, inputs.get('preds_S'), inputs.get('preds_T')
            )
            if line:
                message += f'\nThe channels differ. Add {line}.'
            return ValueError(message)
    return error
