"""SGD with a momentum for each kind of loss."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from kdvit_mm.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class DOT(Optimizer):
    """SGD whose distill gradients have a larger momentum than the task's.

    A parameter has two momentum buffers, which are both subtracted from it:
    one of the gradients of the task's losses, with the momentum ``momentum -
    delta``, and one of those of the distill losses, with ``momentum + delta``.
    Weight decay is part of the task's gradient. A parameter that has gradients
    of one kind only, such as a connector's, has ``momentum``; while there are
    no distill losses, all have. With ``delta=0`` it is ``torch.optim.SGD``.

    It is used through :class:`DOTOptimWrapper`, which tells the gradients
    apart.

    Paper: Zhao, Cui, Song and Liang, *DOT: A Distillation-Oriented Trainer*,
    ICCV 2023, arXiv:2307.08436, with ``delta`` 0.075 on CIFAR-100 and 0.09 on
    ImageNet. Official code: https://github.com/megvii-research/mdistiller
    (``mdistiller/engine/dot.py``). As there, weight decay of a parameter with
    distill gradients only begins at its second step. Groups of parameters,
    which that code refuses, may differ in all values.

    Args:
        params (Iterable[torch.Tensor] | Iterable[dict]): Parameters, or
            groups of parameters.
        lr (float): Learning rate.
        momentum (float): Mean of the two momenta. Defaults to 0.9.
        delta (float): Half of their difference. Defaults to 0.075.
        dampening (float): What is taken off a gradient before it is added to
            its buffer, as a share; not at the first step. Defaults to 0.0.
        weight_decay (float): Weight decay. Defaults to 0.0.

    Raises:
        ValueError: If a value is out of its range, as without a momentum.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if momentum <= 0:
            raise ValueError(
                f'DOT: momentum={momentum}, but DOT is about two momenta. Set '
                'optim_wrapper.optimizer.momentum, usually to 0.9.'
            )
        if not 0 <= delta <= momentum or momentum + delta >= 1:
            raise ValueError(
                f'DOT: the momenta are {momentum - delta:g} for the task and '
                f'{momentum + delta:g} for distillation, but have to be in '
                '[0, 1), the second one not the smaller. Change '
                'optim_wrapper.optimizer.delta.'
            )
        if lr < 0 or weight_decay < 0:
            raise ValueError(
                f'DOT: lr={lr} and weight_decay={weight_decay} have to be at '
                'least 0.'
            )
        defaults = {
            'lr': lr,
            'momentum': momentum,
            'delta': delta,
            'dampening': dampening,
            'weight_decay': weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        distill_grads: Mapping[torch.Tensor, torch.Tensor | None]
        | None = None,
    ) -> None:
        """Updates all parameters that have a gradient.

        Args:
            distill_grads (Mapping[torch.Tensor, torch.Tensor | None] | None):
                Gradient of the distill losses of each parameter, None where
                they have none. That of the task is in ``.grad``. Defaults to
                None, which is an error.

        Raises:
            RuntimeError: If there are no ``distill_grads``.
        """
        if distill_grads is None:
            raise RuntimeError(
                'DOT does not know the gradients of the distill losses. Set '
                'optim_wrapper.type to "kdvit_mm.DOTOptimWrapper", or to '
                '"kdvit_mm.DOTAmpOptimWrapper" for mixed precision.'
            )
        for group in self.param_groups:
            for parameter in group['params']:
                self._update(parameter, distill_grads.get(parameter), group)

    def _update(
        self,
        parameter: torch.Tensor,
        distill: torch.Tensor | None,
        group: dict[str, Any],
    ) -> None:
        task = parameter.grad
        decay = group['weight_decay']
        one_kind = task is None or distill is None
        delta = 0.0 if one_kind else group['delta']
        if task is not None:
            if decay:
                task = task.add(parameter, alpha=decay)
            self._move(parameter, 'task_momentum', task, -delta, group)
        if distill is not None:
            name = 'distill_momentum'
            if decay and task is None and name in self.state[parameter]:
                distill = distill.add(parameter, alpha=decay)
            self._move(parameter, name, distill, delta, group)

    def _move(
        self,
        parameter: torch.Tensor,
        name: str,
        grad: torch.Tensor,
        shift: float,
        group: dict[str, Any],
    ) -> None:
        """Moves a parameter along one of its buffers, updated before."""
        state = self.state[parameter]
        if name in state:
            momentum = group['momentum'] + shift
            state[name].mul_(momentum).add_(grad, alpha=1 - group['dampening'])
        else:
            state[name] = grad.clone()
        parameter.add_(state[name], alpha=-group['lr'])
