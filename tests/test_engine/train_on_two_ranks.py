"""One rank of a training with level selection; run by its test."""

import os
import sys

import torch
from mmengine.config import Config
from mmengine.runner import Runner

if __name__ == '__main__':
    config, store, out, rank = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2')
    cfg = Config.fromfile(config)
    cfg.launcher = 'pytorch'
    cfg.env_cfg.dist_cfg = dict(
        backend='gloo',
        init_method=f'file://{store}',
        rank=int(rank),
        world_size=2,
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model.module
    loss = model.distiller.distill_losses.loss_levels
    held = {
        id(p) for g in runner.optim_wrapper.param_groups for p in g['params']
    }
    found = dict(
        selector=loss.selector.state_dict(),
        grad_norm=loss.grad_norm.state_dict(),
        student=model.student.state_dict(),
        updates=int(getattr(loss.selector, 'updates', 0)),
        held=any(id(p) in held for p in loss.selector.parameters()),
    )
    torch.save(found, out)
