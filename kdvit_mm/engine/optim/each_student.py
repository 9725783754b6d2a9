"""One optimiser for each student."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import (
    AmpOptimWrapper,
    OptimWrapper,
    OptimWrapperDict,
    build_optim_wrapper,
)
from torch import nn

from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS


class JointOptimWrapper(OptimWrapperDict):
    """Several optimisers that step together after one backward pass.

    Their parameters are disjoint, and no loss of one student has a gradient in
    another, so that the gradients of the sum of all losses are those of each
    student's own. Each optimiser clips the gradients of its own parameters.

    Args:
        **optim_wrapper_dict (OptimWrapper): The optimisers' wrappers, of one
            class and with equal ``accumulative_counts``. Those for mixed
            precision share one loss scaler.

    Raises:
        ValueError: If they are of several classes or accumulate differently.
    """

    def __init__(self, **optim_wrapper_dict: OptimWrapper) -> None:
        super().__init__(**optim_wrapper_dict)
        wrappers = [*self.values()]
        self._lead = wrappers[0]
        kinds = {(type(w).__name__, w._accumulative_counts) for w in wrappers}
        if len(kinds) > 1:
            raise ValueError(
                'optim_wrapper: all students step together, but type and '
                f'accumulative_counts are {sorted(kinds)}. Make them equal.'
            )
        for wrapper in wrappers:
            if isinstance(wrapper, AmpOptimWrapper):
                wrapper.loss_scaler = self._lead.loss_scaler

    def update_params(
        self,
        loss: torch.Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """Computes the gradients and makes the steps.

        Args:
            loss (torch.Tensor): Sum of all students' losses, a scalar.
            step_kwargs (dict | None): As in ``OptimWrapper``. Defaults to
                None.
            zero_kwargs (dict | None): As in ``OptimWrapper``. Defaults to
                None.
        """
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Computes the gradients of all parameters."""
        self._lead.backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Makes a step of each optimiser."""
        scaler = getattr(self._lead, 'loss_scaler', None)
        for wrapper in self.values():
            if scaler is None:
                wrapper.step(**kwargs)
                continue
            if wrapper.clip_grad_kwargs:
                scaler.unscale_(wrapper.optimizer)
                wrapper._clip_grad()
            scaler.step(wrapper.optimizer, **kwargs)
        if scaler is not None:
            # Once, when all have stepped by the scale of this iteration.
            scaler.update(self._lead._scale_update_param)

    def zero_grad(self, **kwargs: Any) -> None:
        """Drops the gradients of all parameters."""
        for wrapper in self.values():
            wrapper.zero_grad(**kwargs)

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Divides by the number of accumulated batches."""
        return self._lead.scale_loss(loss)

    def should_update(self) -> bool:
        """Whether the gradients of enough batches are accumulated."""
        return self._lead.should_update()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward."""
        with self._lead.optim_context(model):
            yield

    def initialize_count_status(
        self, model: nn.Module, cur_iter: int, max_iters: int
    ) -> None:
        """Tells the first wrapper, which counts for all, where training is."""
        self._lead.initialize_count_status(model, cur_iter, max_iters)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EachStudentConstructor:
    """Gives each student of a :class:`MutualDistill` its own optimiser.

    Either of one config for all, or by student, the first being ``student``::

        optim_wrapper = dict(
            constructor='kdvit_mm.EachStudentConstructor',
            student=dict(type='OptimWrapper', optimizer=dict(...)),
            wide=dict(type='OptimWrapper', optimizer=dict(...)))

    Parameters of connectors and losses are trained with the first student.
    The config of a student may have a ``constructor`` and a ``paramwise_cfg``.

    Args:
        optim_wrapper_cfg (dict): The config without ``constructor``.
        paramwise_cfg (dict | None): That of one config for all. Defaults to
            None.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        self.cfg = optim_wrapper_cfg
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> JointOptimWrapper:
        """Builds the optimisers.

        Args:
            model (nn.Module): The ``MutualDistill``, maybe in a wrapper.

        Returns:
            JointOptimWrapper: The optimisers' wrappers by student.

        Raises:
            ValueError: If the configs are not of the students that there are.
        """
        algorithm = unwrapped(model)
        students = students_of(algorithm)
        # A wrapper's type is set by the runner where there is none.
        configs = {k: v for k, v in self.cfg.items() if k != 'type'}
        if 'optimizer' in self.cfg:
            shared = {**self.cfg, 'paramwise_cfg': self.paramwise_cfg}
            configs = dict.fromkeys(students, shared)
        if configs.keys() != students.keys():
            raise ValueError(
                'optim_wrapper: EachStudentConstructor takes one config with '
                f'optimizer, or one for each of {", ".join(students)}, but '
                f'got {", ".join(configs)}.'
            )
        wrappers = {
            name: build_optim_wrapper(student, configs[name])
            for name, student in students.items()
        }
        add_rest(wrappers['student'], algorithm, students)
        return JointOptimWrapper(**wrappers)


def add_rest(
    wrapper: OptimWrapper, algorithm: nn.Module, students: dict[str, nn.Module]
) -> None:
    """Adds what is trained beside students, with base rate and decay.

    Args:
        wrapper (OptimWrapper): Gets the parameters, as a last group.
        algorithm (nn.Module): The distillation.
        students (dict[str, nn.Module]): Its students.
    """
    known = {
        id(parameter)
        for student in students.values()
        for parameter in student.parameters()
    }
    rest = {
        name: parameter
        for name, parameter in algorithm.named_parameters()
        if parameter.requires_grad and id(parameter) not in known
    }
    if rest:
        group: dict[str, Any] = {'params': list(rest.values())}
        # Since torch 2.6 either all groups have names or none.
        if 'param_names' in wrapper.optimizer.param_groups[0]:
            group['param_names'] = list(rest)
        wrapper.optimizer.add_param_group(group)
