"""Students that teach each other while they are trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.model import BaseModel
from torch import nn

from kdvit_mm.models.algorithms.self_taught import SelfTaught
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class MutualDistill(SelfTaught):
    r"""Deep mutual learning: each student is a student of all others.

    All students see the same batch. The loss of student k of K is its task's
    and what draws it to each other student, whose side has no gradient; in the
    paper

    .. math:: L_k = CE_k + \frac{1}{K - 1} \sum_{l \ne k} KL(p_l \| p_k).

    Any distill losses will do. The sources of recorders are names in the
    algorithm: ``architecture.`` or ``peers.NAME.`` and the name in the
    student. A mapping says who learns (``from_student=True``) and from whom
    (``from_student=False``)::

        model = dict(
            type='MutualDistill',
            architecture=dict(...),
            peers=dict(wide=dict(...)),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    first=dict(
                        type='ModuleOutputs', source='architecture.head.fc'),
                    wide=dict(
                        type='ModuleOutputs', source='peers.wide.head.fc')),
                teacher_recorders=dict(...),  # the same
                distill_losses=dict(
                    loss_first=dict(type='KDLoss'),
                    loss_wide=dict(type='KDLoss')),
                loss_forward_mappings=dict(
                    loss_first=dict(
                        preds_S=dict(recorder='first', from_student=True),
                        preds_T=dict(recorder='wide', from_student=False)),
                    loss_wide=dict(
                        preds_S=dict(recorder='wide', from_student=True),
                        preds_T=dict(recorder='first', from_student=False)))))

    The first student, ``architecture``, is the one that predicts, is tested
    and, with every distill weight 0, is trained exactly as it would be alone.
    :class:`~kdvit_mm.engine.loops.EachStudentValLoop` evaluates all of them;
    ``tools/model_converters/export_student.py --student NAME`` exports any.
    One optimiser trains them all, or
    :class:`~kdvit_mm.engine.optim.EachStudentConstructor` gives one to each.
    All are updated from their predictions before the step; in the paper's
    algorithm one after another.

    Zhang, Xiang, Hospedales and Lu, *Deep Mutual Learning*, CVPR 2018,
    arXiv:1706.00384. Official code, for re-identification, which sums over the
    other students and updates each on batches of its own:
    https://github.com/YingZhangDUT/Deep-Mutual-Learning.

    Args:
        architecture (dict | BaseModel): The first student.
        peers (Mapping[str, dict | BaseModel]): The other students by name.
            They see the images as the first one's data preprocessor leaves
            them.
        distiller (dict): Config of a ``ConfigurableDistiller`` without
            deliveries.
        calculate_student_loss (bool): Whether the students' own losses count.
            Defaults to True.
        data_preprocessor (dict | nn.Module | None): As in ``BaseAlgorithm``.
            Defaults to None, the first student's.
        init_cfg (dict | None): As in ``BaseAlgorithm``. Defaults to None.

    Raises:
        ValueError: If there is no peer, one is named ``'student'``, or the
            distiller has deliveries.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        peers: Mapping[str, dict | BaseModel],
        distiller: dict,
        calculate_student_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not peers or 'student' in peers:
            raise ValueError(
                'MutualDistill: peers is a dictionary of one or more students '
                'besides model.architecture, by names other than "student"; '
                f'got {list(peers)}.'
            )
        super().__init__(
            architecture,
            peers,
            distiller,
            calculate_student_loss,
            data_preprocessor,
            init_cfg,
        )
        self._predicts = 'student'

    @contextmanager
    def predicting(self, name: str) -> Iterator[None]:
        """Lets a student predict in place of the first one.

        Args:
            name (str): ``'student'`` for the first, or a key of ``peers``.
        """
        self._predicts = name
        try:
            yield
        finally:
            self._predicts = 'student'

    def _forward(self, *batch: Any) -> Any:
        return students_of(self)[self._predicts](*batch, mode='tensor')

    def _predict(self, *batch: Any) -> Any:
        return students_of(self)[self._predicts](*batch, mode='predict')
