"""Distillation from several frozen teachers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmrazor.models.utils import add_prefix
from torch import nn

from kdvit_mm.models.algorithms.lean_teacher import LeanTeacher
from kdvit_mm.models.algorithms.lean_teacher_distill import LeanTeacherDistill
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.samples import own_samples
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class Teachers(BaseModel):
    """Several networks by name, as one.

    Args:
        teachers (Mapping[str, dict | BaseModel]): The networks.

    Raises:
        ValueError: If a name cannot be that of a module.
    """

    def __init__(self, teachers: Mapping[str, dict | BaseModel]) -> None:
        super().__init__()
        self.names = list(teachers)
        for name, teacher in teachers.items():
            # In a name of the log, "loss" would make it one.
            if (
                not name.isidentifier()
                or hasattr(self, name)
                or 'loss' in name
            ):
                raise ValueError(
                    f'teachers: "{name}" cannot be the name of a teacher. '
                    'Take one of letters, digits and "_", such as "r101", '
                    'without "loss".'
                )
            if isinstance(teacher, dict):
                teacher = MODELS.build(in_own_scope(teacher))
            self.add_module(name, teacher)

    def forward(
        self, inputs: torch.Tensor, data_samples: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Runs all networks on a batch.

        Args:
            inputs (torch.Tensor): Images of shape (N, C, H, W).
            data_samples (Any): Their samples. Defaults to None.
            **kwargs: The mode.

        Returns:
            dict[str, Any]: What each gives, by name; losses with the name
            before theirs.
        """
        given = {
            name: getattr(self, name)(
                inputs, own_samples(data_samples), **kwargs
            )
            for name in self.names
        }
        if kwargs.get('mode') != 'loss':
            return given
        losses: dict[str, Any] = {}
        for name, own in given.items():
            losses |= add_prefix(own, name)
        return losses


@MODELS.register_module()
class MultiTeacherDistill(LeanTeacherDistill):
    r"""Distils several teachers, each as :class:`LeanTeacherDistill` does one.

    Sources of ``teacher_recorders`` begin with the name of a teacher. A loss
    is the teacher's whose records it reads, and is multiplied by that
    teacher's weight; one that reads records of several has a weight of 1. A
    teacher of which no loss reads anything any more is not run. ::

        model = dict(
            type='MultiTeacherDistill',
            architecture=dict(...),
            teachers=[
                dict(name='r101', teacher=dict(...), teacher_ckpt='r101.pth'),
                dict(name='swin', teacher=dict(...), teacher_ckpt='swin.pth',
                     teacher_input=dict(own_preprocessor=True))],
            weights='equal',
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    fc=dict(type='ModuleOutputs', source='head.fc')),
                teacher_recorders=dict(
                    r101=dict(type='ModuleOutputs', source='r101.head.fc'),
                    swin=dict(type='ModuleOutputs', source='swin.head.fc')),
                distill_losses=dict(
                    loss_r101=dict(type='KDLoss'),
                    loss_swin=dict(type='KDLoss')),
                loss_forward_mappings=dict(
                    loss_r101=dict(
                        preds_S=dict(recorder='fc', from_student=True),
                        preds_T=dict(recorder='r101', from_student=False)),
                    loss_swin=dict(
                        preds_S=dict(recorder='fc', from_student=True),
                        preds_T=dict(recorder='swin', from_student=False)))))

    Weights of K teachers are equal, 1 / K each, fixed, or, with ``'loss'``,
    those of CA-MKD: the lower a teacher's own task loss :math:`L_k` on the
    batch, the more it counts,

    .. math:: w_k = \frac{1}{K - 1} \left(1 -
        \frac{\exp L_k}{\sum_j \exp L_j}\right).

    Zhang, Chen and Wang, *Confidence-Aware Multi-Teacher Knowledge
    Distillation*, ICASSP 2022, arXiv:2201.00007, has a weight for each image,
    from its cross-entropy; here it is one for the batch, from whatever the
    task's losses are, so that it serves detectors and segmentors, too. Their
    losses have to be of one kind to be compared. Official code, which divides
    the weights by K once more: https://github.com/Rorozhl/CA-MKD.

    Args:
        architecture (dict | BaseModel): The student.
        teachers (Sequence[dict]): For each its ``name``, ``teacher`` and, as
            of :class:`LeanTeacherDistill`, ``teacher_ckpt``, ``inherit``,
            ``teacher_in_checkpoint``, ``fold_batch_norm``,
            ``channels_last``, ``inference_mode``, ``autocast_dtype``,
            ``compile_teacher``, ``cache`` and ``teacher_input``.
        distiller (dict): Config of a ``ConfigurableDistiller`` without
            deliveries.
        weights (str | Mapping[str, float]): ``'equal'``, ``'loss'`` or fixed
            weights by name. Defaults to 'equal'.
        student_trainable (bool): As in ``SingleTeacherDistill``. Defaults to
            True.
        calculate_student_loss (bool): As in ``SingleTeacherDistill``.
            Defaults to True.
        data_preprocessor (dict | nn.Module | None): As in
            ``SingleTeacherDistill``. Defaults to None, the student's.
        init_cfg (dict | None): As in ``SingleTeacherDistill``. Defaults to
            None.

    Raises:
        ValueError: If there are fewer than two teachers, two of one name, or
            one without a recorder; a recorder is no teacher's; the distiller
            has deliveries; ``weights`` does not fit; or a teacher's options
            do not.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        teachers: Sequence[dict],
        distiller: dict,
        weights: str | Mapping[str, float] = 'equal',
        student_trainable: bool = True,
        calculate_student_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        names = _names(teachers)
        if distiller.get('distill_deliveries'):
            raise ValueError(
                'MultiTeacherDistill: distiller.distill_deliveries hand over '
                'from one teacher to the student. Remove them.'
            )
        with isolated_rng(torch.initial_seed()):
            networks = Teachers(
                {one['name']: one['teacher'] for one in teachers}
            )
        super().__init__(
            architecture,
            distiller,
            networks,
            student_trainable=student_trainable,
            calculate_student_loss=calculate_student_loss,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        lean_teachers = []
        for one in teachers:
            options = {k: v for k, v in one.items() if k != 'teacher'}
            lean = LeanTeacher(getattr(networks, one['name']), **options)
            lean.attach(self.distiller, networks)
            lean.prepare_cache(one['teacher'], distiller['teacher_recorders'])
            lean_teachers.append(lean)
        self._take_teachers(lean_teachers)
        self._check_recorders()
        self._check_weights(weights, names)
        self._by_loss = weights == 'loss'
        for lean in lean_teachers:
            lean.needs_loss = self._by_loss
        #: The weight of each teacher, with 'loss' that of the last batch.
        self.weights: dict[str, Any] = (
            {name: 1 / len(names) for name in names}
            if isinstance(weights, str)
            else dict(weights)
        )

    def _check_recorders(self) -> None:
        owned = {key for lean in self.lean_teachers for key in lean.recorders}
        name = self.lean_teachers[0].name
        recorders = self.distiller.teacher_recorders.recorders
        for key, recorder in recorders.items():
            if key not in owned:
                raise ValueError(
                    f'teacher_recorders.{key}: source "{recorder.source}" is '
                    'not of one teacher. Begin it with the name of one, such '
                    f'as "{name}.{recorder.source}". Methods and functions, '
                    'which any of them may call, cannot be recorded.'
                )
        for lean in self.lean_teachers:
            if not lean.recorders:
                raise ValueError(
                    'teachers: none of teacher_recorders is of '
                    f'"{lean.name}". Record something, such as '
                    f'source="{lean.name}.neck", or drop the teacher.'
                )

    def _check_weights(self, weights: Any, names: Sequence[str]) -> None:
        if not isinstance(weights, str):
            if set(weights) == set(names):
                return
        elif weights in ('equal', 'loss'):
            blind = [
                lean.name
                for lean in self.lean_teachers
                if lean.cache or (lean.input and lean.input.scale_factor != 1)
            ]
            if weights == 'equal' or not blind:
                return
            raise ValueError(
                f"weights='loss': {', '.join(blind)} would have no loss, for "
                'a teacher with a cache or a scale_factor sees no ground '
                'truth. Drop these, or take other weights.'
            )
        raise ValueError(
            "weights has to be 'equal', 'loss' or a weight for each of "
            f'{", ".join(names)} by name; got {weights}.'
        )

    def _needed_teachers(self) -> list[LeanTeacher]:
        read = {
            record['recorder']
            for mapping in self.distiller.loss_forward_mappings.values()
            for record in mapping.values()
            if not record['from_student']
        }
        return [x for x in self.lean_teachers if read & x.recorders.keys()]

    def _run_teachers(
        self, images: torch.Tensor, samples: Any
    ) -> dict[str, torch.Tensor]:
        facts = super()._run_teachers(images, samples)
        needed = self._needed_teachers()
        if self._by_loss and needed:
            losses = [lean.task_loss for lean in needed]
            weights = confidence_weights(torch.stack(losses).float())
            for lean, weight in zip(needed, weights, strict=True):
                self.weights[lean.name] = weight
                facts[f'{lean.prefix}weight'] = weight
        return facts

    def _distill_losses(self) -> dict[str, torch.Tensor]:
        return {
            name: loss * self.weights.get(self._owner_of(name), 1)
            for name, loss in super()._distill_losses().items()
        }

    def _owner_of(self, loss: str) -> str:
        """The one teacher whose records a loss reads, or ''."""
        mapping = self.distiller.loss_forward_mappings[loss]
        owners = {
            lean.name
            for lean in self.lean_teachers
            for record in mapping.values()
            if not record['from_student']
            and record['recorder'] in lean.recorders
        }
        return owners.pop() if len(owners) == 1 else ''


def confidence_weights(losses: torch.Tensor) -> torch.Tensor:
    """The weights of teachers with these task losses.

    Args:
        losses (torch.Tensor): Each teacher's loss, of shape (K,).

    Returns:
        torch.Tensor: Their weights, of shape (K,), which sum to 1.
    """
    if len(losses) == 1:
        return torch.ones_like(losses)
    return (1 - losses.softmax(0)) / (len(losses) - 1)


def _names(teachers: Sequence[dict]) -> list[str]:
    """Names of the teachers, after a look at what is given of each."""
    for number, one in enumerate(teachers):
        missing = {'name', 'teacher'} - set(one)
        if missing:
            raise ValueError(f'teachers[{number}] has no {missing.pop()}.')
    names = [one['name'] for one in teachers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f'teachers: two are named "{name}". A name stands for one '
                'teacher in the sources of recorders, in weights and in the '
                'log; rename one.'
            )
    if len(names) < 2:
        raise ValueError(
            f'MultiTeacherDistill: teachers has {len(names)} of at least two. '
            "For one take type='LeanTeacherDistill'."
        )
    return names
