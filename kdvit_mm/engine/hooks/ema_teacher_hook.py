"""A teacher that is the moving average of its student."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.registry import HOOKS


@HOOKS.register_module()
class EMATeacherHook(Hook):
    r"""Makes the teacher the moving average of the student's weights.

    Self-distillation without a trained teacher: the teacher starts as the
    student does, and after every iteration

    .. math:: \theta_T \leftarrow \theta_T + m\, (\theta_S - \theta_T).

    Buffers, such as the statistics of batch norms, are the student's. Any
    distill loss that two equal networks can have will do::

        model = dict(
            type='LeanTeacherDistill',
            architecture=dict(...), teacher=dict(...),  # equal
            teacher_in_checkpoint=True,
            distiller=dict(...))
        custom_hooks = [dict(type='kdvit_mm.EMATeacherHook', momentum=0.001)]

    The average is that of Tarvainen and Valpola, *Mean teachers are better
    role models*, NeurIPS 2017, arXiv:1703.01780, there for images without
    labels, with m = 0.001 after a phase of 0.01. It is in every checkpoint,
    so that a resumed run goes on as it would have. mmdet's ``MeanTeacherHook``
    is for its semi-supervised detectors alone.

    Args:
        momentum (float): m, in (0, 1]. Defaults to 0.001.

    Raises:
        ValueError: If ``momentum`` is not in (0, 1].
    """

    def __init__(self, momentum: float = 0.001) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(
                'EMATeacherHook: momentum is the share of the student in a '
                f'step of the average, in (0, 1], got {momentum}.'
            )
        self.momentum = momentum

    def before_train(self, runner: Runner) -> None:
        """Checks the algorithm, and starts the teacher from the student.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: If the model is no ``LeanTeacherDistill``.
            ValueError: If its teacher is not the student's like, is loaded
                from a checkpoint, folded, compiled, cached or not saved.
        """
        model = unwrapped(runner.model)
        if type(model) is not LeanTeacherDistill:
            raise TypeError(
                'EMATeacherHook needs a LeanTeacherDistill as model, but got '
                f'{type(model).__name__}. Remove it from custom_hooks.'
            )
        (lean,) = model.lean_teachers
        if not lean.teacher_in_checkpoint:
            raise ValueError(
                'EMATeacherHook: the average has to be in the checkpoints, or '
                'a resumed run would start it anew. Set '
                'model.teacher_in_checkpoint=True.'
            )
        if lean.compile_teacher or lean.cache is not None:
            raise ValueError(
                'EMATeacherHook: model.compile_teacher and model.cache are '
                'for a teacher whose weights stay. Leave them out.'
            )
        ours, theirs = (
            {name: value.shape for name, value in net.state_dict().items()}
            for net in (model.student, model.teacher)
        )
        if ours != theirs:
            different = sorted(ours.items() ^ theirs.items())
            raise ValueError(
                'EMATeacherHook: the teacher is an average of the student, so '
                'both have to be one architecture, but '
                f'"{different[0][0]}" is not equal in both. Set model.teacher '
                'to the config of model.architecture.'
            )
        if runner.iter == 0:
            model.teacher.load_state_dict(model.student.state_dict())

    @torch.no_grad()
    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Makes a step of the average."""
        model = unwrapped(runner.model)
        for average, new in zip(
            model.teacher.parameters(),
            model.student.parameters(),
            strict=True,
        ):
            average.lerp_(new, self.momentum)
        for average, new in zip(
            model.teacher.buffers(), model.student.buffers(), strict=True
        ):
            average.copy_(new)
