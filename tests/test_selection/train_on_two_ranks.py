"""One rank of trainings with level selection; run by its test."""

import os
import sys
from contextlib import suppress
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StopInSecondEpoch(Hook):
    """Interrupts a run after the first iteration of its second epoch."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any):
        if runner.epoch == 1:
            raise KeyboardInterrupt


def train(config: str, rank: str, store: str) -> dict[str, Any]:
    cfg = Config.fromfile(config)
    cfg.launcher = 'pytorch'
    cfg.env_cfg.dist_cfg = dict(
        backend='gloo',
        init_method=f'file://{store}',
        rank=int(rank),
        world_size=2,
    )
    runner = Runner.from_cfg(cfg)
    with suppress(KeyboardInterrupt):
        runner.train()
    model = runner.model.module
    controller = model.distiller.distill_losses.loss_levels.controller
    held = {
        id(p) for g in runner.optim_wrapper.param_groups for p in g['params']
    }
    return dict(
        controller=controller.state_dict(),
        extra=controller.extra_state(),
        student=model.student.state_dict(),
        updates=int(getattr(controller.selector, 'updates', 0)),
        held=any(id(p) in held for p in controller.parameters()),
    )


if __name__ == '__main__':
    store, out, rank, *configs = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2')
    torch.save([train(config, rank, store) for config in configs], out)
