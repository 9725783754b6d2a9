"""Distillation from a frozen teacher that computes only what is compared."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from itertools import chain
from typing import Any

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from mmrazor.models.utils import add_prefix
from torch import nn

from kdvit_mm.compat.patches.intact_records import (
    OverwrittenRecord,
    guard_of,
    tensors_of,
)
from kdvit_mm.models.recorders.module import ModuleRecorder
from kdvit_mm.models.recorders.module_tuple import sources_of
from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.models.utils.explain import explain_failure, missing_record
from kdvit_mm.models.utils.idle_terms import idle_terms
from kdvit_mm.models.utils.last_record import until_last_record
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.samples import own_samples, without_truth
from kdvit_mm.models.utils.scope import in_own_scope, in_plugin_scope
from kdvit_mm.models.utils.students import build_student
from kdvit_mm.models.utils.teacher_cache import TeacherCache
from kdvit_mm.models.utils.teacher_weights import (
    compile_parts,
    fold_batch_norm,
    inherit_weights,
    load_teacher_checkpoint,
)
from kdvit_mm.registry import MODELS, TASK_UTILS

# Modes of a detector's, segmentor's or classifier's forward, in the order in
# which they are tried for the teacher.
MODES = ('loss', 'tensor', 'predict')


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
        student_trainable (bool): As in ``SingleTeacherDistill``. Defaults to
            True.
        calculate_student_loss (bool): As in ``SingleTeacherDistill``.
            Defaults to True.
        data_preprocessor (dict | nn.Module | None): As in
            ``SingleTeacherDistill``. Defaults to None, the student's.
        init_cfg (dict | None): As in ``SingleTeacherDistill``. Defaults to
            None.

    Raises:
        ValueError: If ``teacher_ckpt``, ``inherit`` or ``cache`` does not
            fit, or ``teacher_in_checkpoint`` is combined with
            ``fold_batch_norm``.
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
        student_trainable: bool = True,
        calculate_student_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if teacher_in_checkpoint and fold_batch_norm:
            raise ValueError(
                'teacher_in_checkpoint and fold_batch_norm cannot be '
                'combined: a folded teacher has other weights than its '
                'config. Drop one of the two.'
            )
        if autocast_dtype is not None and not isinstance(
            getattr(torch, autocast_dtype, None), torch.dtype
        ):
            raise ValueError(
                f'autocast_dtype "{autocast_dtype}" is not a torch dtype; '
                "write 'bfloat16' or 'float16'."
            )
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
        if teacher_ckpt:
            load_teacher_checkpoint(self.teacher, teacher_ckpt)
            self.teacher._is_init = True
        self.inherit = inherit
        self.teacher_in_checkpoint = teacher_in_checkpoint
        self.fold_batch_norm = fold_batch_norm
        self.channels_last = channels_last
        self.inference_mode = inference_mode
        self.autocast_dtype = autocast_dtype
        self.compile_teacher = compile_teacher
        self.cache = (
            None
            if cache is None
            else self._build_cache(cache, teacher, distiller)
        )
        self._seed = seed
        self._steps = 0
        self._shares_teacher = False
        self._teacher_is_prepared = False
        self._teacher_mode: str | None = None
        self._register_state_dict_hook(_add_teacher)
        self.teacher.eval()

    def _build_cache(
        self, cache: dict, teacher: dict | BaseModel, distiller: dict
    ) -> TeacherCache:
        built = TASK_UTILS.build({'type': 'kdvit_mm.TeacherCache', **cache})
        if isinstance(teacher, dict):
            teacher = resolve_cfg_path(teacher)
        recorders = distiller.get('teacher_recorders')
        options = self.channels_last, self.autocast_dtype, self.compile_teacher
        built.prepare(self.distiller, repr((teacher, recorders, options)))
        return built

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
        inherit_weights(self.architecture, self.teacher, self.inherit)

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
            facts = self._run_teacher(*batch)
        self.distiller.set_deliveries_override(True)
        with self.distiller.student_recorders, self.distiller.deliveries:
            losses = self._student_loss(*batch)
        with isolated_rng(seed + 1):
            try:
                distill_losses = self.distiller.compute_distill_losses()
            except OverwrittenRecord:
                raise
            except Exception as error:
                raise explain_failure(
                    self.distiller, error, self.student, self.teacher
                ) from error
        losses.update(add_prefix(distill_losses, 'distill'))
        losses.update(facts)
        return losses | idle_terms(
            self.distiller, self.distiller.loss_forward_mappings
        )

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

    def _run_teacher(
        self, images: torch.Tensor, samples: Any
    ) -> dict[str, torch.Tensor]:
        """Fills the teacher's recorders and says what is to be logged."""
        if self.cache is not None:
            samples = without_truth(samples)
        if not self._teacher_is_prepared:
            self._prepare_teacher(images, samples)
        if self.cache is None:
            self._forward_teacher(images, samples)
            return {}
        hits = self.cache.record(
            self.distiller,
            self.teacher,
            images,
            samples,
            self._forward_teacher,
        )
        return {'teacher.cache_hits': torch.tensor(hits)}

    def _forward_teacher(self, images: torch.Tensor, samples: Any) -> None:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            if self.autocast_dtype:
                dtype = getattr(torch, self.autocast_dtype)
                stack.enter_context(torch.autocast(images.device.type, dtype))
            self._record(images, samples)

    def _record(self, *batch: Any) -> None:
        """Runs the teacher until the last record is in."""
        self.distiller.set_deliveries_override(False)
        if self._teacher_mode is None:
            self._teacher_mode = self._find_mode(*batch)
        else:
            self._run_mode(self._teacher_mode, *batch)

    def _find_mode(self, *batch: Any) -> str:
        """Runs the teacher in the first mode that gives all records.

        Raises:
            ValueError: If there is none.
        """
        problems: dict[str, str] = {}
        for mode in MODES:
            try:
                self._run_mode(mode, *batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                problems[mode] = f'{type(error).__name__}: {error}'
                continue
            missing = missing_record(self.distiller, self.teacher)
            if missing is None:
                if problems:
                    MMLogger.get_current_instance().info(
                        f'The teacher is run in mode "{mode}": in mode '
                        f'"{MODES[0]}" it stops with {problems[MODES[0]]}'
                    )
                return mode
            problems[mode] = missing
        lines = [f'mode "{mode}": {text}' for mode, text in problems.items()]
        raise ValueError(
            f'the teacher ({type(self.teacher).__name__}) does not get to its '
            'last record.\n' + '\n'.join(lines)
        )

    def _run_mode(self, mode: str, images: torch.Tensor, samples: Any) -> None:
        # What a teacher writes into its samples must not reach the student.
        samples = own_samples(samples)
        changes = self.channels_last or self.autocast_dtype
        with (
            torch.inference_mode() if self.inference_mode else torch.no_grad(),
            until_last_record(
                self.distiller, self._settle if changes else None
            ),
        ):
            self.teacher(images, samples, mode=mode)

    def _prepare_teacher(self, *batch: Any) -> None:
        """Applies the options that need the teacher's final weights."""
        self._teacher_is_prepared = True
        recorded = [
            source
            for recorder in self.distiller.teacher_recorders.recorders.values()
            for source in sources_of(recorder)
            if isinstance(recorder, (ModuleOutputsRecorder, ModuleRecorder))
        ]
        if self.fold_batch_norm:
            # In full precision, or rounding would hide or feign a difference.
            with torch.autocast(batch[0].device.type, enabled=False):
                self._record(*batch)
                before = [t.clone() for t in self._teacher_tensors()]
                fold_batch_norm(self.teacher, recorded)
                self._relearn_overwriting()
                self._record(*batch)
            _check_folding(before, self._teacher_tensors())
        if self.channels_last:
            self.teacher.to(memory_format=torch.channels_last)
        if self.compile_teacher:
            compile_parts(self.teacher, recorded)
            self._relearn_overwriting()

    def _relearn_overwriting(self) -> None:
        """Other operations may work in place now."""
        for recorder in self.distiller.teacher_recorders.recorders.values():
            # Or the next forward would learn from what is in the buffer.
            recorder.reset_data_buffer()
            guard_of(recorder, recorder.source).relearn()
        for delivery in self.distiller.deliveries.deliveries.values():
            delivery.data_queue.guard.relearn()

    def _teacher_tensors(self) -> list[torch.Tensor]:
        return [
            tensor
            for recorder in self.distiller.teacher_recorders.recorders.values()
            for tensor in tensors_of(recorder.data_buffer)
        ]

    def _settle(self, tensor: torch.Tensor) -> torch.Tensor:
        """Makes a record what a plain teacher would have recorded."""
        if self.autocast_dtype and tensor.is_floating_point():
            tensor = tensor.float()
        return tensor.contiguous()

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        start = f'{prefix}teacher.'
        weights = {
            key.removeprefix(start): state_dict.pop(key)
            for key in list(state_dict)
            if key.startswith(start)
        }
        if weights and self.teacher_in_checkpoint:
            self.teacher.load_state_dict(weights)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _add_teacher(
    module: LeanTeacherDistill, state_dict: dict, prefix: str, *args: Any
) -> None:
    if module.teacher_in_checkpoint:
        module.teacher.state_dict(
            destination=state_dict, prefix=f'{prefix}teacher.'
        )


def _check_folding(
    before: list[torch.Tensor], after: list[torch.Tensor]
) -> None:
    for old, new in zip(before, after, strict=True):
        error = (old.float() - new.float()).abs().max().item()
        scale = old.float().abs().max().item()
        if error > 1e-3 * max(scale, 1e-6):
            raise ValueError(
                'fold_batch_norm: the records of the folded teacher differ '
                f'by {error:.3g} at a magnitude of {scale:.3g}. Its norms do '
                'not follow their convolutions; turn fold_batch_norm off.'
            )
    MMLogger.get_current_instance().info(
        'fold_batch_norm: records checked against the plain teacher'
    )
