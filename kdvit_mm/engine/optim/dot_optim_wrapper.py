"""Optimiser wrappers that tell distill gradients from the task's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from kdvit_mm.engine.optim.dot import DOT
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.registry import OPTIM_WRAPPERS

#: Size of the pieces in which gradients are reduced, as DDP's.
BUCKET_MB = 25


@OPTIM_WRAPPERS.register_module()
class DOTOptimWrapper(OptimWrapper):
    """Gives :class:`DOT` the gradients of the task and of the distill losses.

    Losses whose name begins with ``distill.``, as mmrazor's algorithms name
    them, are gone backward from first, all others then. ::

        optim_wrapper = dict(
            type='kdvit_mm.DOTOptimWrapper',
            optimizer=dict(
                type='kdvit_mm.DOT', lr=0.05, momentum=0.9, delta=0.075,
                weight_decay=5e-4))

    Gradients are accumulated per kind. They are clipped together: both are
    scaled by what the norm of their sum is clipped by. Under distributed
    training both are reduced after the backward passes, of which
    DistributedDataParallel could reduce but one.

    Args:
        optimizer (DOT): The optimiser.
        **kwargs: Those of ``OptimWrapper``.

    Raises:
        TypeError: If the optimiser is another one.
        ValueError: If gradients are to be clipped by value.
    """

    def __init__(self, optimizer: Optimizer, **kwargs: Any) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, DOT):
            raise TypeError(
                f'{name} needs two momenta, but optim_wrapper.optimizer is '
                f'{type(optimizer).__name__}, which has not. Set '
                "optim_wrapper.optimizer=dict(type='kdvit_mm.DOT', lr=..., "
                'momentum=0.9, delta=0.075, weight_decay=...).'
            )
        if (kwargs.get('clip_grad') or {}).get('type') == 'value':
            raise ValueError(
                f'{name}: optim_wrapper.clip_grad has type="value". The sum '
                'of two gradients can be clipped by value, but not the two. '
                'Clip by norm: clip_grad=dict(max_norm=...).'
            )
        super().__init__(optimizer=optimizer, **kwargs)
        #: Losses of the task and of distillation in this iteration.
        self._losses: list[torch.Tensor] = []

    @cached_property
    def _slots(self) -> dict[torch.Tensor, torch.Tensor]:
        """Another handle of each parameter, for its distill gradient.

        It takes a ``.grad`` as the parameter itself does, and no memory.
        """
        return {
            parameter: parameter.detach()
            for group in self.optimizer.param_groups
            for parameter in group['params']
        }

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Keeps the losses that the model computes inside.

        Args:
            model (nn.Module): The algorithm, or its
                DistributedDataParallel.

        Raises:
            TypeError: If the model is no distillation, or in a wrapper that
                does more than reduce gradients.
            ValueError: If DistributedDataParallel is to broadcast buffers.
        """
        self._check_model(model)
        handle = model.register_forward_hook(self._keep_losses)
        try:
            with super().optim_context(model):
                yield
        finally:
            handle.remove()

    def _check_model(self, model: nn.Module) -> None:
        name = type(self).__name__
        if not hasattr(unwrapped(model), 'distiller'):
            raise TypeError(
                f'{name} needs a distillation algorithm as model, but got '
                f'{type(unwrapped(model)).__name__}. Set optim_wrapper.type '
                'to "OptimWrapper" and its optimizer to SGD.'
            )
        if not is_model_wrapper(model):
            return
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(
                f'{name} reduces the gradients itself, which a '
                f'{type(model).__name__} does not let it do. Set '
                'model_wrapper_cfg.type to "MMDistributedDataParallel".'
            )
        if model.broadcast_buffers:
            raise ValueError(
                f'{name} goes forward without synchronisation, and no buffers '
                'would be broadcast. Set '
                'model_wrapper_cfg.broadcast_buffers=False and add '
                "dict(type='SyncBuffersHook') to custom_hooks."
            )

    def _keep_losses(
        self, model: nn.Module, inputs: Any, losses: dict[str, Any]
    ) -> None:
        parse = unwrapped(model).parse_losses
        self._losses = [
            parse({
                name: value
                for name, value in losses.items()
                if name.startswith('distill.') == is_distill
            })[0]
            for is_distill in (False, True)
        ]  # fmt: skip

    def should_sync(self) -> bool:
        """Never: both gradients are reduced in :meth:`step`."""
        return False

    def update_params(  # type: ignore[override]
        self,
        loss: torch.Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """Goes backward from both kinds of losses, and updates in time.

        Args:
            loss (torch.Tensor): Their sum, which is not used.
            step_kwargs (dict | None): As in ``OptimWrapper``. Defaults to
                None.
            zero_kwargs (dict | None): As in ``OptimWrapper``. Defaults to
                None.

        Raises:
            ValueError: If there are no losses of the task.
        """
        task, distill = self._losses
        self._losses = []
        if not isinstance(task, torch.Tensor):
            raise ValueError(
                f'{type(self).__name__}: there is no loss but distill losses, '
                'as model.calculate_student_loss=False, and nothing to tell '
                'them from. Set optim_wrapper.type to "OptimWrapper" and its '
                'optimizer to SGD.'
            )
        # It is a plain 0 while distillation is stopped.
        if isinstance(distill, torch.Tensor) and distill.requires_grad:
            self._exchange()
            self.backward(self.scale_loss(distill), retain_graph=True)
            self._exchange()
            # The iteration is counted by the task's.
            self._inner_count -= 1
        super().update_params(task, step_kwargs, zero_kwargs)

    def _exchange(self) -> None:
        """Exchanges the gradients in the parameters and in their slots."""
        for parameter, slot in self._slots.items():
            parameter.grad, slot.grad = slot.grad, parameter.grad

    def step(self, **kwargs: Any) -> None:
        """Reduces and clips both gradients and updates the parameters.

        Args:
            **kwargs: Arguments of the optimiser's step.
        """
        self._reduce()
        if self.clip_grad_kwargs:
            self._clip_grad()
        self._step_optimizer(**kwargs)

    def _step_optimizer(self, **kwargs: Any) -> None:
        grads = {
            parameter: slot.grad for parameter, slot in self._slots.items()
        }
        self.optimizer.step(grads, **kwargs)

    def _reduce(self) -> None:
        """Averages both gradients over the processes.

        A parameter that has one in some processes only has a gradient of 0 in
        the others.
        """
        if get_world_size() == 1:
            return
        holders = [*self._slots, *self._slots.values()]
        has_grad = torch.tensor(
            [int(holder.grad is not None) for holder in holders],
            device=holders[0].device,
        )
        all_reduce(has_grad, op='max')
        found = []
        for holder, has in zip(holders, has_grad.tolist(), strict=True):
            if has:
                if holder.grad is None:
                    holder.grad = torch.zeros_like(holder)
                found.append(holder.grad)
        all_reduce_params(found, bucket_size_mb=BUCKET_MB, op='mean')

    def _clip_grad(self) -> None:
        both, sums = [], []
        for parameter, slot in self._slots.items():
            grads = [x.grad for x in (parameter, slot) if x.grad is not None]
            if grads:
                both += grads
                total = parameter.detach()
                total.grad = sum(grads[1:], start=grads[0].clone())
                sums.append(total)
        norm = self.clip_func(sums, **self.clip_grad_kwargs)
        # As torch has it.
        factor = self.clip_grad_kwargs['max_norm'] / (norm + 1e-6)
        for grad in both:
            grad.mul_(factor.clamp(max=1.0).to(grad.device))
        self.message_hub.update_scalar(f'train/{self.grad_name}', float(norm))

    def zero_grad(self, **kwargs: Any) -> None:
        """Clears both gradients.

        Args:
            **kwargs: Arguments of the optimiser's ``zero_grad``.
        """
        super().zero_grad(**kwargs)
        for slot in self._slots.values():
            slot.grad = None


@OPTIM_WRAPPERS.register_module()
class DOTAmpOptimWrapper(DOTOptimWrapper, AmpOptimWrapper):
    """:class:`DOTOptimWrapper` with mixed precision.

    Both losses have one scale. A gradient that is not finite, of either kind,
    has the step skipped for both, and the scale lowered.

    Args:
        optimizer (DOT): The optimiser.
        **kwargs: Those of ``AmpOptimWrapper``.

    Raises:
        TypeError: As in :class:`DOTOptimWrapper`.
        ValueError: As in :class:`DOTOptimWrapper`.
    """

    def step(self, **kwargs: Any) -> None:
        """Reduces, unscales and clips both gradients and updates.

        Args:
            **kwargs: Arguments of the optimiser's step.
        """
        self._reduce()
        # What a GradScaler knows of an optimiser.
        both: Any = SimpleNamespace(
            param_groups=[{'params': [*self._slots, *self._slots.values()]}],
            step=self._step_optimizer,
        )
        self.loss_scaler.unscale_(both)
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.loss_scaler.step(both, **kwargs)
        self.loss_scaler.update(self._scale_update_param)
