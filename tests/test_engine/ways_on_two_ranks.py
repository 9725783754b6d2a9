"""One rank of trainings without a trained teacher; run by its test."""

import os
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner


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
    runner.train()
    model = runner.model.module
    return dict(
        weights=dict(model.named_parameters()),
        teacher=dict(getattr(model, 'teacher', model).named_parameters()),
        steps=runner.iter,
    )


if __name__ == '__main__':
    store, out, rank, *configs = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2')
    torch.save([train(config, rank, store) for config in configs], out)
