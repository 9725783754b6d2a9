"""One rank of a training with a cache of the teacher; run by its test."""

import json
import os
import sys
from hashlib import blake2b
from pathlib import Path

import torch
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from tests import tiny

STEPS = 4


def train(rank: int, **changes) -> tuple[str, list[float]]:
    """Trains two epochs; which rank has which half of the images changes."""
    model = MMDistributedDataParallel(tiny.build(**changes))
    optim_wrapper = OptimWrapper(
        torch.optim.SGD(model.module.student.parameters(), lr=0.01)
    )
    hits = []
    for step in range(STEPS):
        half = 2 * (step % 2) + (rank + step // 2) % 2
        batch = tiny.detection_batch(seed=half)
        logged = model.train_step(batch, optim_wrapper)
        hits.append(float(logged.get('teacher.cache_hits', 0)))
    digest = blake2b()
    for weight in model.module.student.state_dict().values():
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest(), hits


if __name__ == '__main__':
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    init_dist(
        'pytorch',
        backend='gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=2,
    )
    plain, _ = train(rank)
    cache = dict(dir=f'{folder}/cache', dtype='float32')
    cached, hits = train(rank, cache=cache)
    out = dict(plain=plain, cached=cached, hits=hits)
    (folder / f'{rank}.json').write_text(json.dumps(out))
