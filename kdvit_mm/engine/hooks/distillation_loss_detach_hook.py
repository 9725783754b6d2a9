"""Ends distillation some epochs before training ends."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.registry import HOOKS


@HOOKS.register_module()
class DistillationLossDetachHook(Hook):
    """Trains without distill losses from an epoch on.

    The hook that mmyolo's distillation recipe for RTMDet asks for under
    ``mmrazor.DistillationLossDetachHook`` and that no release of mmrazor has:
    RTMDet's last epochs, with weak augmentation, are trained on the task
    alone.

    Args:
        detach_epoch (int): First epoch, counted from 0, without distill
            losses.
    """

    priority = 'LOW'

    def __init__(self, detach_epoch: int) -> None:
        self.detach_epoch = detach_epoch

    def before_train(self, runner: Runner) -> None:
        """Refuses to stop the only loss that there is.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: If the model is not one of mmrazor's distillation
                algorithms.
            ValueError: If the algorithm has ``calculate_student_loss=False``
                and distillation would stop before training ends.
        """
        model = unwrapped(runner.model)
        if not hasattr(model, 'distillation_stopped'):
            raise TypeError(
                'DistillationLossDetachHook needs a distillation algorithm '
                f'as model, but got {type(model).__name__}. Remove it from '
                'custom_hooks.'
            )
        refuse_without_student_loss(runner, self, 'detach_epoch')

    def before_train_epoch(self, runner: Runner) -> None:
        """Stops distillation once ``detach_epoch`` is reached.

        Args:
            runner (Runner): The runner.
        """
        model = unwrapped(runner.model)
        if runner.epoch >= self.detach_epoch and not (
            model.distillation_stopped
        ):
            runner.logger.info('Distillation has been stopped.')
            model.distillation_stopped = True


def refuse_without_student_loss(runner: Runner, hook: Hook, key: str) -> None:
    """Refuses a hook that would leave no loss at all.

    Args:
        runner (Runner): The runner.
        hook (Hook): A hook that stops distillation at an epoch.
        key (str): The hook's config key of that epoch.

    Raises:
        ValueError: If the model has ``calculate_student_loss=False`` and
            distillation would stop before training ends.
    """
    model = unwrapped(runner.model)
    epoch = getattr(hook, key)
    if epoch < runner.max_epochs and not model.calculate_student_loss:
        raise ValueError(
            f'{type(hook).__name__} stops distillation at epoch {epoch} '
            f'({key}={epoch}), but with model.calculate_student_loss=False '
            'there is no other loss to train on. Set '
            'model.calculate_student_loss=True, or remove the hook from '
            'custom_hooks.'
        )
