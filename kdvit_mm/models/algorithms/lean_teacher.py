"""A frozen teacher that computes only what is compared."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.models.task_modules.recorder.module_outputs_recorder import (
    ModuleOutputsRecorder,
)
from torch import nn

from kdvit_mm.compat.patches.intact_records import guard_of, tensors_of
from kdvit_mm.models.recorders.module import ModuleRecorder
from kdvit_mm.models.recorders.module_tuple import sources_of
from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.models.utils.explain import missing_record
from kdvit_mm.models.utils.last_record import until_last_record
from kdvit_mm.models.utils.samples import own_samples, without_truth
from kdvit_mm.models.utils.teacher_cache import TeacherCache
from kdvit_mm.models.utils.teacher_input import TeacherInput
from kdvit_mm.models.utils.teacher_weights import (
    compile_parts,
    fold_batch_norm,
    load_teacher_checkpoint,
)
from kdvit_mm.registry import TASK_UTILS

# Modes of a detector's, segmentor's or classifier's forward, in the order in
# which they are tried for the teacher.
MODES = ('loss', 'tensor', 'predict')


@TASK_UTILS.register_module()
class LeanTeacher:
    """Runs a frozen teacher until its last record is in.

    No module: optimisers, weight averages, hooks and checkpoints do not see
    it.

    Args:
        network (BaseModel): The teacher.
        name (str): Its name among several teachers, with which the sources of
            its recorders begin. Defaults to '', it is the only one.
        teacher_ckpt (str | None): As of :class:`LeanTeacherDistill`, like all
            that follow. Defaults to None.
        inherit (bool | Sequence[str]): Defaults to False.
        teacher_in_checkpoint (bool): Defaults to False.
        fold_batch_norm (bool): Defaults to False.
        channels_last (bool): Defaults to False.
        inference_mode (bool): Defaults to False.
        autocast_dtype (str | None): Defaults to None.
        compile_teacher (bool): Defaults to False.
        cache (dict | None): Defaults to None.
        teacher_input (dict | None): Defaults to None.

    Attributes:
        needs_loss (bool): Whether the teacher is run to its end in mode
            ``'loss'``, for its own losses.
        task_loss (torch.Tensor): Their sum in the last run, a scalar.

    Raises:
        ValueError: If ``teacher_ckpt``, ``cache`` or ``teacher_input`` does
            not fit, ``autocast_dtype`` is no dtype, or
            ``teacher_in_checkpoint`` is combined with ``fold_batch_norm``.
    """

    distiller: ConfigurableDistiller
    recorders: dict[str, BaseRecorder]
    task_loss: torch.Tensor

    def __init__(
        self,
        network: BaseModel,
        name: str = '',
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
        if teacher_ckpt:
            load_teacher_checkpoint(network, teacher_ckpt)
            network._is_init = True
        self.network = network
        self.name = name
        self.inherit = inherit
        self.teacher_in_checkpoint = teacher_in_checkpoint
        self.fold_batch_norm = fold_batch_norm
        self.channels_last = channels_last
        self.inference_mode = inference_mode
        self.autocast_dtype = autocast_dtype
        self.compile_teacher = compile_teacher
        self.cache = None if cache is None else TeacherCache(**cache)
        self.input = (
            None if teacher_input is None else TeacherInput(**teacher_input)
        )
        self.needs_loss = False
        self._is_prepared = False
        self._mode: str | None = None

    @property
    def prefix(self) -> str:
        """str: What its names begin with in logs and checkpoints."""
        return f'teacher.{self.name}.' if self.name else 'teacher.'

    def attach(
        self, distiller: ConfigurableDistiller, root: nn.Module
    ) -> None:
        """Takes the recorders to fill.

        Args:
            distiller (ConfigurableDistiller): The distiller. Of several
                teachers', the recorders are those whose sources begin with
                the name.
            root (nn.Module): The module in which sources are names.
        """
        self.distiller = distiller
        self.root = root
        self.recorders = {
            key: recorder
            for key, recorder in distiller.teacher_recorders.recorders.items()
            if not self.name
            or {x.partition('.')[0] for x in sources_of(recorder)}
            == {self.name}
        }

    def prepare_cache(
        self, config: dict | BaseModel, recorder_configs: Mapping[str, dict]
    ) -> None:
        """Tells the cache, if there is one, what records depend on.

        Args:
            config (dict | BaseModel): What the network is built from.
            recorder_configs (Mapping[str, dict]): What recorders are built
                from, by name.

        Raises:
            ValueError: If the cache cannot keep what is distilled.
        """
        if self.cache is None:
            return
        if isinstance(config, dict):
            config = resolve_cfg_path(config)
        own = [(key, recorder_configs[key]) for key in self.recorders]
        options = self.channels_last, self.autocast_dtype, self.compile_teacher
        self.cache.prepare(
            self.distiller, self.recorders, repr((config, own, options))
        )

    def run(
        self,
        images: torch.Tensor,
        samples: Any,
        raw: dict[str, Any] | None,
        preprocessor: nn.Module,
    ) -> dict[str, torch.Tensor]:
        """Fills the recorders.

        Args:
            images (torch.Tensor): The student's images, of shape
                (N, C, H, W).
            samples (list[BaseDataElement] | None): Their samples.
            raw (dict[str, Any] | None): The batch as the data loader gave it,
                if ``teacher_input`` needs it.
            preprocessor (nn.Module): The student's data preprocessor.

        Returns:
            dict[str, torch.Tensor]: What is to be logged, by name.

        Raises:
            ValueError: If the teacher does not get to its last record, or its
                records cannot be kept.
        """
        if self.input is not None:
            images, samples = self.input(
                self.network, (images, samples), raw, preprocessor
            )
        if self.cache is not None:
            samples = without_truth(samples)
        if not self._is_prepared:
            self._prepare(images, samples)
        if self.cache is None:
            self._forward(images, samples)
            return {}
        hits = self.cache.record(
            self.distiller,
            self.recorders,
            self.network,
            (images, samples),
            self._forward,
        )
        return {f'{self.prefix}cache_hits': torch.tensor(hits)}

    def _forward(self, images: torch.Tensor, samples: Any) -> None:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            if self.autocast_dtype:
                dtype = getattr(torch, self.autocast_dtype)
                stack.enter_context(torch.autocast(images.device.type, dtype))
            self._record(images, samples)

    def _record(self, *batch: Any) -> None:
        """Runs the network until the last record is in."""
        self.distiller.set_deliveries_override(False)
        if self._mode is None:
            self._mode = self._find_mode(*batch)
        else:
            self._run_mode(self._mode, *batch)

    def _find_mode(self, *batch: Any) -> str:
        """Runs the network in the first mode that gives all records.

        Raises:
            ValueError: If there is none.
        """
        problems: dict[str, str] = {}
        for mode in MODES[:1] if self.needs_loss else MODES:
            try:
                self._run_mode(mode, *batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                problems[mode] = f'{type(error).__name__}: {error}'
                continue
            missing = missing_record(self.distiller, self.root, self.recorders)
            if missing is None:
                if problems:
                    MMLogger.get_current_instance().info(
                        f'The teacher is run in mode "{mode}": in mode '
                        f'"{MODES[0]}" it stops with {problems[MODES[0]]}'
                    )
                return mode
            problems[mode] = missing
        lines = [f'mode "{mode}": {text}' for mode, text in problems.items()]
        whose = f'teacher "{self.name}"' if self.name else 'the teacher'
        raise ValueError(
            f'{whose} ({type(self.network).__name__}) does not get to its '
            + ('losses' if self.needs_loss else 'last record')
            + '.\n'
            + '\n'.join(lines)
        )

    def _run_mode(self, mode: str, images: torch.Tensor, samples: Any) -> None:
        # What a teacher writes into its samples must not reach the student.
        samples = own_samples(samples)
        changes = self.channels_last or self.autocast_dtype
        with (
            torch.inference_mode() if self.inference_mode else torch.no_grad(),
            until_last_record(
                self.distiller,
                self.recorders,
                self._settle if changes else None,
                to_the_end=self.needs_loss,
            ),
        ):
            outputs = self.network(images, samples, mode=mode)
        if self.needs_loss:
            self.task_loss = self.network.parse_losses(outputs)[0].clone()

    def _prepare(self, *batch: Any) -> None:
        """Applies the options that need the final weights."""
        self._is_prepared = True
        start = f'{self.name}.' if self.name else ''
        recorded = [
            source.removeprefix(start)
            for recorder in self.recorders.values()
            for source in sources_of(recorder)
            if isinstance(recorder, (ModuleOutputsRecorder, ModuleRecorder))
        ]
        if self.fold_batch_norm:
            # In full precision, or rounding would hide or feign a difference.
            with torch.autocast(batch[0].device.type, enabled=False):
                self._record(*batch)
                before = [t.clone() for t in self._tensors()]
                fold_batch_norm(self.network, recorded)
                self._relearn_overwriting()
                self._record(*batch)
            _check_folding(before, self._tensors())
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.compile_teacher:
            compile_parts(self.network, recorded)
            self._relearn_overwriting()

    def _relearn_overwriting(self) -> None:
        """Other operations may work in place now."""
        for recorder in self.recorders.values():
            # Or the next forward would learn from what is in the buffer.
            recorder.reset_data_buffer()
            guard_of(recorder, recorder.source).relearn()
        for delivery in self.distiller.deliveries.deliveries.values():
            delivery.data_queue.guard.relearn()

    def _tensors(self) -> list[torch.Tensor]:
        return [
            tensor
            for recorder in self.recorders.values()
            for tensor in tensors_of(recorder.data_buffer)
        ]

    def _settle(self, tensor: torch.Tensor) -> torch.Tensor:
        """Makes a record what a plain teacher would have recorded."""
        if self.autocast_dtype and tensor.is_floating_point():
            tensor = tensor.float()
        return tensor.contiguous()


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
