"""Lets the selectors learn on one of two ranks; see test_two_ranks.py."""

import sys

import torch
import torch.distributed as dist

from kdvit_mm.registry import MODELS
from kdvit_mm.selection import State

CONFIGS = (
    dict(type='PPOLevels', lr=1e-2),
    dict(type='JointPPOLevels', lr=1e-2, batch_size=8),
    dict(type='ReinforceLevels'),
    dict(type='RegressedLevels'),
    dict(type='GreedyLevels'),
    dict(type='GatedLevels', lr=1e-2),
)


def draw(rank: int, number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + number)
    return [
        torch.randn(number, 4, size, size, generator=generator)
        for size in (8, 4, 2)
    ]


def learn(config: dict, rank: int) -> dict:
    # As with diff_rank_seed: each rank has random numbers of its own.
    torch.manual_seed(rank)
    selector = MODELS.build(dict(num_levels=3, lambda_cost=0.3, **config))
    # What DistributedDataParallel and the hook do.
    for parameter in selector.parameters():
        dist.broadcast(parameter.data, 0)
    selector.seed = 0
    start = {k: v.clone() for k, v in selector.named_parameters()}
    costs = torch.tensor([0.6, 0.3, 0.1])
    common = draw(7, 20)
    levels = selector.plan(State(common, common, costs)).levels
    returns = []
    # The other rank sees more, and less; at last neither sees anything.
    for numbers in (3, 9), (1, 5), (4, 2), (0, 0):
        number = numbers[rank]
        if number:
            maps = draw(rank, number)
            selection = selector.plan(State(maps, maps, costs))
            quality = torch.stack([m.mean((1, 2, 3)) for m in maps], 1)
            selector.observe(quality, torch.ones(number) > 0)
            selector.observe_losses(quality.abs().mean(0))
            if config['type'] == 'GatedLevels':
                (selection.weights * quality).sum().backward()
        returns.append(selector.learn())
    state = selector.state_dict()
    moved = sum(
        float((v - start[k]).abs().sum())
        for k, v in selector.named_parameters()
    )
    return dict(state=state, returns=returns, levels=levels, moved=moved)


if __name__ == '__main__':
    store, out, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )
    torch.save([learn(config, rank) for config in CONFIGS], out)
    dist.barrier()
    dist.destroy_process_group()
