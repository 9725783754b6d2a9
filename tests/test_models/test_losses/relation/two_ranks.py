"""One of two ranks that distil relations; run by test_two_ranks.py."""

import os
import sys
from contextlib import suppress
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.runner import Runner

import tests.test_engine.test_training  # noqa: F401
from kdvit_mm.models.utils.gather import gather_rows
from tests.test_models.test_losses.relation.test_cirkd import (
    CIRKDMiniBatchLoss,
    features,
    label_maps,
    make_memory,
)
from tests.test_models.test_losses.relation.test_cirkd import (
    samples as label_samples,
)
from tests.test_models.test_losses.relation.test_crd import make_loss, samples

#: Rows of the two ranks in each of three steps.
PARTS = ((3, 2), (1, 4), (2, 2))


def gathered(rank: int) -> dict[str, Any]:
    rows = torch.arange(3.0 * (2 - rank)).reshape(-1, 3) + 10 * rank
    rows.requires_grad_()
    found = gather_rows(rows)
    ((rank + 1) * found.square()).sum().backward()
    try:
        gather_rows(torch.ones(2, 3 + rank))
    except ValueError as error:
        message = str(error)
    return dict(rows=found.detach(), grad=rows.grad, message=message)


def paired(own: slice) -> dict[str, Any]:
    student, teacher = features(0, 3, batch=4), features(1, 5, batch=4)
    student = student[own].requires_grad_()
    loss = CIRKDMiniBatchLoss()(student, teacher[own])
    loss.backward()
    alone = CIRKDMiniBatchLoss(across_ranks=False)(student, teacher[own])
    return dict(loss=loss.item(), grad=student.grad, alone=alone.item())


def remembered(own: slice) -> dict[str, Any]:
    loss = make_memory().double()
    for step in range(3):
        labels = label_maps(step, batch=4)
        if step == 1:
            # The first rank's images have no label.
            labels[:2] = 255
        student = features(2 * step, 3, batch=4)[own].requires_grad_()
        teacher = features(2 * step + 1, 5, batch=4)[own]
        value = loss(student, teacher, label_samples(labels[own]))
        value.backward()
    return dict(state=loss.state_dict(), grad=student.grad)


def contrasted(rank: int | None) -> dict[str, Any]:
    loss = make_loss().double()
    generator = torch.Generator().manual_seed(3)
    table = torch.randint(20, (20, 8), generator=generator)
    # Every image is its own class.
    loss._draw_negatives = lambda labels: table[labels]
    for parts in PARTS:
        number = sum(parts)
        student = torch.randn(number, 5, generator=generator).double()
        teacher = torch.randn(number, 7, generator=generator).double()
        indices = torch.randint(20, (number,), generator=generator)
        # Both ranks have one of the images.
        indices[-1] = indices[0]
        own = slice(None)
        if rank is not None:
            own = slice(rank * parts[0], None if rank else parts[0])
        loss(
            student[own], teacher[own], samples(indices[own], indices[own])
        ).backward()
    return loss.state_dict()


def train(config: str) -> dict[str, torch.Tensor]:
    runner = Runner.from_cfg(Config.fromfile(config))
    with suppress(KeyboardInterrupt):
        runner.train()
    return runner.model.module.state_dict()


if __name__ == '__main__':
    store, out, number, *configs = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= dict(RANK=number, LOCAL_RANK=number, WORLD_SIZE='2')
    rank = int(number)
    init_dist(
        'pytorch',
        backend='gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=2,
    )
    half = slice(2 * rank, 2 * rank + 2)
    results = dict(
        gathered=gathered(rank),
        paired=paired(half),
        remembered=remembered(half),
        contrasted=contrasted(rank),
        trained=[train(config) for config in configs],
    )
    torch.save(results, out)
