"""Distillation of a network from itself."""

from mmengine.model import BaseModel
from torch import nn

from kdvit_mm.models.algorithms.self_taught import SelfTaught
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class SelfDistill(SelfTaught):
    """Distils parts of a network from other parts of it, in one forward.

    ``teacher_recorders`` record the student without gradient: deeper stages
    teach shallower ones and are not drawn to them. What a shallow stage needs
    to be compared, such as a classifier of its own, is part of the loss
    (:class:`BYOTLoss`) or a connector, and not of the exported student; an
    auxiliary head of mmseg is part of the student.

    With every distill weight 0 the student is trained exactly as it would be
    alone. In the scope ``mmrazor`` the name is that of mmrazor's own
    algorithm, which needs its ``BYOTDistiller`` to stop the gradient and does
    not keep the student's random stream. For a teacher that is the moving
    average of the student see :class:`~kdvit_mm.engine.hooks.EMATeacherHook`.

    Args:
        architecture (dict | BaseModel): The student.
        distiller (dict): Config of a ``ConfigurableDistiller`` without
            deliveries.
        calculate_student_loss (bool): Whether the student's own losses count.
            Defaults to True.
        data_preprocessor (dict | nn.Module | None): As in ``BaseAlgorithm``.
            Defaults to None, the student's.
        init_cfg (dict | None): As in ``BaseAlgorithm``. Defaults to None.

    Raises:
        ValueError: If the distiller has deliveries.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        distiller: dict,
        calculate_student_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            architecture,
            {},
            distiller,
            calculate_student_loss,
            data_preprocessor,
            init_cfg,
        )
