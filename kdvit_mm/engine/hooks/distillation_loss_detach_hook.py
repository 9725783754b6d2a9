"""Ends distillation some epochs before training ends."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

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

    def before_train_epoch(self, runner: Runner) -> None:
        """Stops distillation once ``detach_epoch`` is reached.

        Raises:
            TypeError: If the model is not one of mmrazor's distillation
                algorithms.
        """
        if runner.epoch < self.detach_epoch:
            return
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        if not hasattr(model, 'distillation_stopped'):
            raise TypeError(
                'DistillationLossDetachHook needs a distillation algorithm '
                f'as model, but got {type(model).__name__}. Remove it from '
                'custom_hooks.'
            )
        if not model.distillation_stopped:
            runner.logger.info('Distillation has been stopped.')
            model.distillation_stopped = True
