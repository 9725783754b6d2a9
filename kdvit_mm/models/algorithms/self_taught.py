"""What distillation without a teacher has in common."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import BaseAlgorithm
from mmrazor.models.task_modules import RecorderManager
from mmrazor.models.utils import add_prefix
from torch import nn

from kdvit_mm.compat.patches.intact_records import (
    OverwrittenRecord,
    RecordBuffer,
)
from kdvit_mm.models.utils.explain import explain_failure
from kdvit_mm.models.utils.idle_terms import idle_terms
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.samples import own_samples
from kdvit_mm.models.utils.scope import in_own_scope, in_plugin_scope
from kdvit_mm.models.utils.students import build_student
from kdvit_mm.registry import MODELS


class SelfTaught(BaseAlgorithm):
    """Base of algorithms whose students are teachers, too.

    ``teacher_recorders`` record the students, as ``student_recorders`` do, but
    without gradient. As :class:`LeanTeacherDistill`, it builds and initialises
    the first student as if it were alone and draws nothing from its random
    stream.

    Args:
        architecture (dict | BaseModel): The first student.
        peers (Mapping[str, dict | BaseModel]): Other students by name. With
            any, sources of recorders are names in the algorithm; without,
            names in the student.
        distiller (dict): Config of a ``ConfigurableDistiller`` without
            deliveries.
        calculate_student_loss (bool): Whether the students' own losses count.
        data_preprocessor (dict | nn.Module | None): As in ``BaseAlgorithm``.
        init_cfg (dict | None): As in ``BaseAlgorithm``.

    Raises:
        ValueError: If the distiller has deliveries.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        peers: Mapping[str, dict | BaseModel],
        distiller: dict,
        calculate_student_loss: bool,
        data_preprocessor: dict | nn.Module | None,
        init_cfg: dict | None,
    ) -> None:
        if distiller.get('distill_deliveries'):
            raise ValueError(
                f'{type(self).__name__}: distiller.distill_deliveries hands '
                'over from the forward of a teacher to that of a student, but '
                'here no network is the teacher. Remove it.'
            )
        architecture, data_preprocessor = build_student(
            architecture, data_preprocessor
        )
        seed = torch.initial_seed()
        with isolated_rng(seed):
            super().__init__(architecture, data_preprocessor, init_cfg)
            self.peers = nn.ModuleDict(
                {
                    name: MODELS.build(in_own_scope(peer))
                    if isinstance(peer, dict)
                    else peer
                    for name, peer in peers.items()
                }
            )
            self.distiller = MODELS.build(in_plugin_scope(distiller))
        if not self.module_inplace:
            self.set_module_inplace_false(self.peers, 'self.peers')
        self.distiller.prepare_from_student(self._recorded)
        self.distiller.prepare_from_teacher(self._recorded)
        self.calculate_student_loss = calculate_student_loss
        # Set by DistillScheduleHook.
        self.distillation_stopped = False
        self._seed = seed
        self._steps = 0

    @property
    def student(self) -> BaseModel:
        """The first student, as the algorithms with a teacher call it."""
        return self.architecture

    @property
    def _recorded(self) -> nn.Module:
        """The module in which sources of recorders are names."""
        return self if self.peers else self.architecture

    def init_weights(self) -> None:
        """Initialises the student as if it were alone, then all the rest."""
        self.architecture.init_weights()
        others: list[Any] = [self.distiller, *self.peers.values()]
        with isolated_rng(self._seed + 1):
            for part in others:
                part.init_weights()

    def loss(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Computes the students' losses and the distill losses.

        Args:
            batch_inputs (torch.Tensor): Images of shape (N, C, H, W).
            data_samples (list[BaseDataElement] | None): The batch's samples.
                Defaults to None.

        Returns:
            dict[str, torch.Tensor]: Losses with the prefixes ``student.``,
            ``student.NAME.`` for a peer, and ``distill.``.

        Raises:
            ValueError: If a distill loss cannot be computed; says which, on
                what shapes and which connector makes them fit.
        """
        seed = self._next_seed()
        if self.distillation_stopped:
            losses = self._student_losses(seed, batch_inputs, data_samples)
            return losses | idle_terms(self.distiller, {})
        try:
            return self._losses(seed, batch_inputs, data_samples)
        except OverwrittenRecord as warning:
            # Once in a run at most: what was overwritten is copied from now.
            MMLogger.get_current_instance().warning(str(warning))
            return self._losses(seed, batch_inputs, data_samples)

    def _losses(self, seed: int, *batch: Any) -> dict[str, torch.Tensor]:
        distiller = self.distiller
        with (
            distiller.student_recorders,
            _without_gradient(distiller.teacher_recorders),
        ):
            losses = self._student_losses(seed, *batch)
        with isolated_rng(seed):
            try:
                distill_losses = distiller.compute_distill_losses()
            except OverwrittenRecord:
                raise
            except Exception as error:
                raise explain_failure(
                    distiller, error, self._recorded, self._recorded
                ) from error
        losses |= add_prefix(distill_losses, 'distill')
        return losses | idle_terms(distiller, distiller.loss_forward_mappings)

    def _student_losses(
        self, seed: int, images: torch.Tensor, samples: Any
    ) -> dict[str, torch.Tensor]:
        # What a peer finds in the samples must not be what another wrote.
        given = {name: own_samples(samples) for name in self.peers}
        losses = self.architecture(images, samples, mode='loss')
        losses = add_prefix(losses, 'student')
        for number, (name, peer) in enumerate(self.peers.items(), 1):
            with isolated_rng(seed + number):
                own = peer(images, given[name], mode='loss')
            losses |= add_prefix(own, f'student.{name}')
        return losses if self.calculate_student_loss else {}

    def _next_seed(self) -> int:
        # The runner's iteration is known again after a resume.
        self._steps += 1
        step = MessageHub.get_current_instance().get_info('iter', self._steps)
        return self._seed + 1_000_003 * (int(step) + 1)


@contextmanager
def _without_gradient(recorders: RecorderManager) -> Iterator[None]:
    """Records tensors without their gradient."""
    with recorders:
        for recorder in recorders.recorders.values():
            if isinstance(recorder.data_buffer, RecordBuffer):
                recorder.data_buffer.settle = torch.Tensor.detach
        yield
