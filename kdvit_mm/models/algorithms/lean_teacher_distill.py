"""Distillation from a frozen teacher that computes only what is compared."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from torch import nn

from kdvit_mm.compat.patches.intact_records import OverwrittenRecord
from kdvit_mm.models.algorithms.lean_teacher import LeanTeacher
from kdvit_mm.models.utils.explain import explain_failure
from kdvit_mm.models.utils.idle_terms import idle_terms
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.scope import in_own_scope, in_plugin_scope
from kdvit_mm.models.utils.students import build_student
from kdvit_mm.models.utils.teacher_input import RawBatch
from kdvit_mm.models.utils.teacher_weights import inherit_weights
from kdvit_mm.registry import MODELS


@MODELS.register_module()
class LeanTeacherDistill(SingleTeacherDistill):
    """Like mmrazor's ``SingleTeacherDistill``, without wasted work.

    The teacher is wholly in eval mode and its forward ends as soon as the last
    record is in, whatever modules, methods or functions are recorded. Where a
    detector has no losses in eval mode, as DINO, it is run in the first mode
    that gives all records.

    The teacher is an attribute but no submodule: optimizers, weight averages,
    hooks and checkpoints do not see it. It is rebuilt from ``teacher_ckpt`` on
    resume, and shared by copies of the algorithm.

    Building the teacher, running it and computing the distill losses draw
    nothing from the student's random stream: with every distill weight 0 the
    student is trained exactly as it would be alone.

    Args:
        architecture (dict | BaseModel): The student.
        distiller (dict): Config of the distiller.
        teacher (dict | BaseModel): The teacher.
        teacher_ckpt (str | None): File or URL of the teacher's checkpoint,
            whose keys must all match. Defaults to None.
        inherit (bool | Sequence[str]): Top-level modules of the student that
            start from the teacher's weights, such as ``('neck',
            'bbox_head')``; True for all but the backbone. Defaults to False.
        teacher_in_checkpoint (bool): Whether checkpoints hold the teacher's
            weights too. Defaults to False.
        fold_batch_norm (bool): Folds the teacher's batch norms into its
            convolutions and lets its activations work in place. Records
            equal to about 1e-5, which the first batch is checked for.
            Defaults to False.
        channels_last (bool): Runs the teacher in channels-last memory format.
            Records equal to about 1e-5. Defaults to False.
        inference_mode (bool): Runs the teacher under
            ``torch.inference_mode`` and clones its records. Exact. Defaults
            to False.
        autocast_dtype (str | None): Runs the teacher under autocast with this
            dtype, such as ``'bfloat16'``; records come back as float32, with
            the dtype's precision. Defaults to None.
        compile_teacher (bool): Compiles the parts of the teacher that have no
            recorder inside, with ``torch.compile``. Defaults to False.
        cache (dict | None): Arguments of :class:`TeacherCache`, such as
            ``dict(dir='work_dirs/cache')``, which keeps the records of images
            that come back with the same pixels. Defaults to None.
        teacher_input (dict | None): Arguments of :class:`TeacherInput`, such
            as ``dict(own_preprocessor=True)``, which gives the teacher other
            images than the student's. Defaults to None.
        student_trainable (bool): As in ``SingleTeacherDistill``. Defaults to
            True.
        calculate_student_loss (bool): As in ``SingleTeacherDistill``.
            Defaults to True.
        data_preprocessor (dict | nn.Module | None): As in
            ``SingleTeacherDistill``. Defaults to None, the student's.
        init_cfg (dict | None): As in ``SingleTeacherDistill``. Defaults to
            None.

    Raises:
        ValueError: If ``teacher_ckpt``, ``inherit``, ``cache`` or
            ``teacher_input`` does not fit, or ``teacher_in_checkpoint`` is
            combined with ``fold_batch_norm``.
    """

    def __init__(
        self,
        architecture: dict | BaseModel,
        distiller: dict,
        teacher: dict | BaseModel,
        teacher_ckpt: str | None = None,
        inherit: bool | Sequence[str] = False,
        teacher_in_checkpoint: bool = False,
        fold_batch_norm: bool = False,
        channels_last: bool = False,
        inference_mode: bool = False,
        autocast_dtype: str | None = None,
        compile_teacher: bool = False,
        cache: dict | None = None,
        teacher_input: dict | None = None,
        student_trainable: bool = True,
        calculate_student_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        # Built first, as the student alone would be, from the same stream.
        architecture, data_preprocessor = build_student(
            architecture, data_preprocessor
        )
        if isinstance(teacher, dict):
            teacher = in_own_scope(teacher)
        seed = torch.initial_seed()
        with isolated_rng(seed):
            super().__init__(
                architecture=architecture,
                distiller=in_plugin_scope(distiller),
                teacher=teacher,
                student_trainable=student_trainable,
                calculate_student_loss=calculate_student_loss,
                data_preprocessor=data_preprocessor,
                init_cfg=init_cfg,
            )
        self._seed = seed
        self._steps = 0
        self._shares_teacher = False
        self._raw = RawBatch()
        self._register_state_dict_hook(_add_teachers)
        self.teacher.eval()
        lean = LeanTeacher(
            self.teacher,
            teacher_ckpt=teacher_ckpt,
            inherit=inherit,
            teacher_in_checkpoint=teacher_in_checkpoint,
            fold_batch_norm=fold_batch_norm,
            channels_last=channels_last,
            inference_mode=inference_mode,
            autocast_dtype=autocast_dtype,
            compile_teacher=compile_teacher,
            cache=cache,
            teacher_input=teacher_input,
        )
        lean.attach(self.distiller, self.teacher)
        lean.prepare_cache(teacher, distiller.get('teacher_recorders', {}))
        self._take_teachers([lean])

    def _take_teachers(self, teachers: list[LeanTeacher]) -> None:
        self.lean_teachers = teachers
        inputs = [lean.input for lean in teachers if lean.input]
        for each in inputs:
            each.check(self.data_preprocessor)
        if any(each.needs_raw for each in inputs):
            self.data_preprocessor.register_forward_pre_hook(self._raw.keep)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps the teacher from becoming a submodule."""
        if name == 'teacher':
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict) -> 'LeanTeacherDistill':
        """Copies all but the teacher, which copies share."""
        for shared in chain(
            self.teacher.modules(),
            self.teacher.parameters(),
            self.teacher.buffers(),
        ):
            memo[id(shared)] = shared
        memo[id(self)] = new = type(self).__new__(type(self))
        new.__dict__.update(copy.deepcopy(vars(self), memo))
        new._shares_teacher = True
        for recorder in new.distiller.teacher_recorders.recorders.values():
            recorder.data_buffer.clear()
        new.distiller.prepare_from_teacher(new.teacher)
        return new

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], *args: Any
    ) -> 'LeanTeacherDistill':
        super()._apply(fn, *args)
        if not self._shares_teacher:
            self.teacher._apply(fn, *args)
        return self

    def init_weights(self) -> None:
        """Initialises the student as if it were alone, then all the rest."""
        self.architecture.init_weights()
        with isolated_rng(self._seed + 1):
            self.distiller.init_weights()
            self.teacher.init_weights()
        for lean in self.lean_teachers:
            inherit_weights(self.architecture, lean.network, lean.inherit)

    def train(self, mode: bool = True) -> 'LeanTeacherDistill':
        """Sets the mode of all but the teacher, which stays in eval mode."""
        nn.Module.train(self, mode)
        self.teacher.eval()
        return self

    def loss(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Computes the student's losses and the distill losses.

        Args:
            batch_inputs (torch.Tensor): Images of shape (N, C, H, W).
            data_samples (list[BaseDataElement] | None): The batch's samples.
                Defaults to None.

        Returns:
            dict[str, torch.Tensor]: Losses with the prefixes ``student.`` and
            ``distill.``.

        Raises:
            ValueError: If a distill loss cannot be computed; says which, on
                what shapes and which connector makes them fit.
        """
        if self.distillation_stopped:
            losses = self._student_loss(batch_inputs, data_samples)
            return losses | idle_terms(self.distiller, {})
        seed = self._next_seed()
        try:
            return self._losses(seed, batch_inputs, data_samples)
        except OverwrittenRecord as warning:
            # Once in a run at most: what was overwritten is copied from now.
            MMLogger.get_current_instance().warning(str(warning))
            return self._losses(seed, batch_inputs, data_samples)

    def _losses(self, seed: int, *batch: Any) -> dict[str, torch.Tensor]:
        with isolated_rng(seed):
            facts = self._run_teachers(*batch)
        self.distiller.set_deliveries_override(True)
        with self.distiller.student_recorders, self.distiller.deliveries:
            losses = self._student_loss(*batch)
        losses.update(self._compared(seed))
        losses.update(facts)
        return losses | idle_terms(
            self.distiller, self.distiller.loss_forward_mappings
        )

    def _compared(self, seed: int) -> dict[str, torch.Tensor]:
        """The distill losses of what is recorded."""
        with isolated_rng(seed + 1):
            try:
                losses = self._distill_losses()
            except OverwrittenRecord:
                raise
            except Exception as error:
                raise explain_failure(
                    self.distiller, error, self.student, self.teacher
                ) from error
        return add_prefix(losses, 'distill')

    def _run_teachers(
        self, images: torch.Tensor, samples: Any
    ) -> dict[str, torch.Tensor]:
        """Fills the teachers' recorders and says what is to be logged."""
        facts: dict[str, torch.Tensor] = {}
        for lean in self.lean_teachers:
            # It may have been replaced since.
            if lean.distiller is not self.distiller:
                lean.attach(self.distiller, self.teacher)
        for lean in self._needed_teachers():
            facts |= lean.run(
                images, samples, self._raw.data, self.data_preprocessor
            )
        return facts

    def _needed_teachers(self) -> list[LeanTeacher]:
        return self.lean_teachers

    def _distill_losses(self) -> dict[str, torch.Tensor]:
        return self.distiller.compute_distill_losses()

    def _student_loss(self, *batch: Any) -> dict[str, torch.Tensor]:
        trains = self.student_trainable or self.calculate_student_loss
        with nullcontext() if trains else torch.no_grad():
            losses = self.student(*batch, mode='loss')
        if not self.calculate_student_loss:
            return {}
        return add_prefix(losses, 'student')

    def _next_seed(self) -> int:
        # The runner's iteration is known again after a resume.
        self._steps += 1
        step = MessageHub.get_current_instance().get_info('iter', self._steps)
        return self._seed + 1_000_003 * (int(step) + 1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for lean in self.lean_teachers:
            start = f'{prefix}{lean.prefix}'
            weights = {
                key.removeprefix(start): state_dict.pop(key)
                for key in list(state_dict)
                if key.startswith(start)
            }
            if weights and lean.teacher_in_checkpoint:
                lean.network.load_state_dict(weights)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _add_teachers(
    module: LeanTeacherDistill, state_dict: dict, prefix: str, *args: Any
) -> None:
    for lean in module.lean_teachers:
        if lean.teacher_in_checkpoint:
            lean.network.state_dict(
                destination=state_dict, prefix=f'{prefix}{lean.prefix}'
            )
