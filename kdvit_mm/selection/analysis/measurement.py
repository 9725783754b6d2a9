"""Measures what each level is worth to each image, on several draws."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.selection.probes import level_benefits
from kdvit_mm.selection.selectors.state import level_statistics

#: Objects are counted by octave of their side: below 8 px, ..., from 512 px.
OCTAVES = (2, 9)


@dataclass
class Signal:
    """What was measured on some images.

    Attributes:
        quality (torch.Tensor): Quality of each level, of shape (n, R, L).
        costs (torch.Tensor): Each level's share of the cost, of shape (L,),
            the mean over the batches.
        state (torch.Tensor): What a policy sees, of shape (n, R, D).
        truth (torch.Tensor): Number of objects, in all and by octave of their
            side, of shape (n, R, 9).
        images (torch.Tensor): Their places in the data set, of shape (n,).
        num_excluded (int): Images left out as one of these is not finite.
    """

    quality: torch.Tensor
    costs: torch.Tensor
    state: torch.Tensor
    truth: torch.Tensor
    images: torch.Tensor
    num_excluded: int


def selected_loss_config(cfg: Config) -> ConfigDict:
    """The config of the one ``SelectedLevelsLoss`` in a config.

    Args:
        cfg (Config): The config.

    Returns:
        ConfigDict: That of the loss; changes to it change ``cfg``.

    Raises:
        ValueError: If there is none, or more than one.
    """
    losses = cfg.model.get('distiller', {}).get('distill_losses', {})
    found = [
        loss
        for loss in losses.values()
        if 'SelectedLevelsLoss' in str(loss['type'])
    ]
    if len(found) != 1:
        raise ValueError(
            f'model.distiller.distill_losses of {cfg.filename} has '
            f'{len(found)} losses of type SelectedLevelsLoss instead of one. '
            'Take a config such as configs/demo/rl_fpn_*.py.'
        )
    return found[0]


def measure(
    algorithm: BaseModel,
    dataloader: DataLoader,
    num_images: int,
    num_draws: int,
    seed: int = 0,
) -> Signal:
    """Measures the quality of each level on several draws of some images.

    Args:
        algorithm (BaseModel): The algorithm; it stays as it is.
        dataloader (DataLoader): Gives the data set with its pipeline, the
            collate function and the batch size. Sampler and workers are not
            used.
        num_images (int): Number of images, drawn at random; all if there are
            fewer.
        num_draws (int): Draws of each image, R.
        seed (int): Seed of images and augmentation: with the same one, other
            weights are measured on the same pixels. Defaults to 0.

    Returns:
        Signal: What was measured.

    Raises:
        ValueError: If not even two images are left.
    """
    dataset: Any = dataloader.dataset
    draws, costs = [], []
    with isolated_rng(seed):
        images = torch.randperm(len(dataset))[:num_images]
        for _ in range(num_draws):
            # In other company each time: what a loss takes from the batch is
            # not the image's.
            order = torch.randperm(len(images))
            rows = []
            for part in images[order].split(dataloader.batch_size):
                data = dataloader.collate_fn(
                    [dataset[i] for i in part.tolist()]
                )
                _, found = level_benefits(algorithm, data)
                state = level_statistics(
                    found.state.student, found.state.teacher
                ).flatten(1)
                truth = torch.stack(
                    [describe_objects(x) for x in data['data_samples']]
                )
                tensors = found.quality, state, truth
                rows.append([x.cpu().double() for x in tensors])
                costs.append(found.state.costs.cpu().double())
            draw = [torch.cat(column) for column in zip(*rows, strict=True)]
            draws.append([x[order.argsort()] for x in draw])
    quality, state, truth = (
        torch.stack(column, 1) for column in zip(*draws, strict=True)
    )
    known = torch.cat([quality, state], 2).isfinite().flatten(1).all(1)
    if known.sum() < 2:
        raise ValueError(
            f'{int(known.sum())} of {len(known)} images have finite maps and '
            'gradients of both losses; at least 2 are needed. Give more '
            'images, and check the losses with tools/analysis/doctor.py.'
        )
    return Signal(
        quality=quality[known],
        costs=torch.stack(costs).mean(0),
        state=state[known],
        truth=truth[known],
        images=images[known],
        num_excluded=int((~known).sum()),
    )


def describe_objects(sample: Any) -> torch.Tensor:
    """Counts the objects of an image, in all and by octave of their side.

    An FPN's levels are octaves apart: the counts are those of the objects
    that each level is assigned, whatever the assignment starts from.

    Args:
        sample (Any): A data sample with ``gt_instances.bboxes``, a tensor or
            mmdet's boxes.

    Returns:
        torch.Tensor: Counts of shape (9,). A side is the root of the area.
    """
    boxes = sample.gt_instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    first, last = OCTAVES
    octaves = sides.clamp(min=1).log2().long().clamp(first, last) - first
    counts = torch.bincount(octaves, minlength=last - first + 1)
    return torch.cat([counts.new_tensor([len(boxes)]), counts])
