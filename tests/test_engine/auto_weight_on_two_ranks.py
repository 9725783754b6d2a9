"""One of two ranks whose loss weights are moved; run by its test."""

import json
import sys
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from kdvit_mm.engine.hooks import AutoLossWeightHook
from tests.test_engine.test_auto_loss_weight import (
    HOOK,
    Follow,
    toy,
    toy_runner,
)


class FollowBoth(Follow):
    """Keeps what this rank alone has measured, too."""

    def __init__(self) -> None:
        super().__init__()
        self.own: list[float] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any):
        super().after_train_iter(runner)
        (auto,) = (
            h for h in runner.hooks if isinstance(h, AutoLossWeightHook)
        )
        self.own += auto._shares.values()


def main(folder: str, rank: int) -> None:
    """Trains on this rank's points."""
    dist = dict(
        backend='gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=2,
    )
    follow = FollowBoth()
    toy_runner(
        Path(folder),
        toy(1e-2),
        [dict(type=HOOK, interval=5), follow],
        steps=10,
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dist),
    ).train()
    Path(folder, f'{rank}.json').write_text(json.dumps(vars(follow)))


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
