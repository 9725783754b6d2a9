"""Trains on the samples from which the student has most to learn."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn
from torch.utils.data import DataLoader

from kdvit_mm.datasets.condensation import Condensation
from kdvit_mm.datasets.condensed_sampler import CondensedSampler
from kdvit_mm.datasets.mix_dropped import MixDropped
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.eval_mode import eval_mode
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.registry import HOOKS

VALUES = ('entropy', 'loss')


@HOOKS.register_module()
class KnowledgeCondensationHook(Hook):
    """Drops the samples that have least to teach, and mixes some into others.

    In training every sample gets a value: the entropy of what the student
    predicts, or the image's own distill loss. Every ``interval`` epochs the
    training set shrinks by the samples of the lowest mean value, of all ranks
    and epochs so far (:class:`~kdvit_mm.datasets.condensation.Condensation`).
    The training loader's sampler has to be a
    :class:`~kdvit_mm.datasets.CondensedSampler`. With a
    :class:`~kdvit_mm.datasets.MixDropped` in the pipeline, samples that were
    just dropped are mixed into the least valuable ones that were not. ::

        train_dataloader = dict(
            sampler=dict(type='kdvit_mm.CondensedSampler', shuffle=True))
        custom_hooks = [dict(type='kdvit_mm.KnowledgeCondensationHook')]

    A picture of who was kept goes to the visualizer at every step, and the
    values are part of checkpoints.

    Paper: Li, Lin, Ding, Lin, Zhuang, Huang, Ding and Cao, *Knowledge
    Condensation Distillation*, ECCV 2022, arXiv:2207.05409. Official code:
    https://github.com/dzy3/KCD, whose command for CIFAR-100 has the values
    that are the defaults here, for 240 epochs. A value of exactly 0 counts
    here. The values of images by their distill loss are ours.

    Args:
        value (str): ``'entropy'`` or ``'loss'``. The entropy is of ``preds_S``
            of a distill loss on class scores; the loss is computed once more
            for each image alone. Defaults to 'entropy'.
        losses (Sequence[str] | None): Keys of ``distiller.distill_losses``
            that the value is of; one of them for the entropy. Defaults to
            None, all.
        interval (int): Epochs between two steps. Defaults to 40.
        keep_ratio (float): Share of the samples that is kept in the end.
            Defaults to 0.7.
        num_steps (int): Number of steps in which it is reached. Defaults to
            6.
        min_share (float): Least share of a kept image in its mixture.
            Defaults to 0.7.

    Raises:
        ValueError: If ``value`` is not one of the two, ``interval`` or
            ``num_steps`` is below 1, or ``keep_ratio`` or ``min_share`` is
            not between 0 and 1.
    """

    def __init__(
        self,
        value: str = 'entropy',
        losses: Sequence[str] | None = None,
        interval: int = 40,
        keep_ratio: float = 0.7,
        num_steps: int = 6,
        min_share: float = 0.7,
    ) -> None:
        if value not in VALUES:
            raise ValueError(
                f'{type(self).__name__}: value "{value}" is not one of '
                f'{", ".join(VALUES)}.'
            )
        if min(interval, num_steps) < 1:
            raise ValueError(
                f'{type(self).__name__}: interval={interval} and '
                f'num_steps={num_steps} have to be at least 1.'
            )
        if not (0 < keep_ratio < 1 and 0 < min_share < 1):
            raise ValueError(
                f'{type(self).__name__}: keep_ratio={keep_ratio} and '
                f'min_share={min_share} have to be between 0 and 1.'
            )
        self.value = value
        self.losses = losses
        self.interval = interval
        self.keep_ratio = keep_ratio
        self.num_steps = num_steps
        self.min_share = min_share
        # Indices of the images of the batch in training, else empty.
        self._images: list[int] = []
        # Their values by distill loss.
        self._values: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []
        # What was seen in this epoch, NaN for nothing.
        self._latest = torch.empty(0)

    def before_run(self, runner: Runner) -> None:
        """Connects loader and losses, before anything is loaded.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: If the model, loop, data set, sampler or batch sampler
                is of a kind that cannot be condensed.
            ValueError: If there is no such loss, or it has no value of a
                single image; or a step would drop nothing.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            # A validation or test.
            return
        watched = self._find_losses(unwrapped(runner.model))
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                f'{type(self).__name__} counts epochs, but train_cfg.type is '
                f'{type(runner.train_loop).__name__}. Set it to '
                '"EpochBasedTrainLoop".'
            )
        loader = runner.train_loop.dataloader
        self._sampler = self._find_sampler(loader)
        dataset: Any = loader.dataset
        self.condensation = Condensation(
            len(dataset), self.keep_ratio, self.num_steps, self.min_share
        )
        for transform in dataset.pipeline.transforms:
            if isinstance(transform, MixDropped):
                transform.follow(self.condensation, dataset)
        self._check_schedulers(runner, loader)
        for name, loss in watched.items():
            handle = loss.register_forward_hook(
                partial(self._see, name), with_kwargs=True
            )
            self._handles.append(handle)

    def _find_losses(self, model: Any) -> dict[str, nn.Module]:
        name = type(self).__name__
        distiller = getattr(model, 'distiller', None)
        if not isinstance(distiller, ConfigurableDistiller):
            raise TypeError(
                f'{name} needs a distillation algorithm as model, but got '
                f'{type(model).__name__}. Remove it from custom_hooks.'
            )
        known = dict(distiller.distill_losses.items())
        names = list(known) if self.losses is None else list(self.losses)
        for key in names:
            if key not in known:
                raise ValueError(
                    f'{name}: there is no distill loss "{key}". '
                    f'distiller.distill_losses has {", ".join(known)}.'
                )
        if self.value == 'entropy' and len(names) != 1:
            raise ValueError(
                f'{name}: the entropy is that of one distill loss, but there '
                f'are {", ".join(names)}. Set losses=["{names[0]}"], or '
                'another one that has class scores as preds_S.'
            )
        for key in names if self.value == 'loss' else ():
            loss = known[key]
            if (
                getattr(loss, 'decides', False)
                or getattr(loss, 'min_images', 1) > 1
            ):
                raise ValueError(
                    f'{name}: {type(loss).__name__} ("{key}") cannot be '
                    'computed for an image alone. Name other ones in losses.'
                )
        return {key: known[key] for key in names}

    def _find_sampler(self, loader: DataLoader) -> CondensedSampler:
        name = type(self).__name__
        batch_sampler: Any = loader.batch_sampler
        sampler = getattr(batch_sampler, 'sampler', loader.sampler)
        if not isinstance(sampler, CondensedSampler):
            raise TypeError(
                f'{name} cannot steer a {type(sampler).__name__}. Set '
                "train_dataloader.sampler=dict(type='kdvit_mm."
                "CondensedSampler', shuffle=True)."
            )
        if not isinstance(loader.dataset, BaseDataset):
            raise TypeError(
                f'{name} knows samples by the index that a data set gives '
                f'them, but a {type(loader.dataset).__name__} repeats or '
                'renumbers those of other data sets. Set '
                'train_dataloader.dataset to one data set that has them all.'
            )
        # A batch of samples shows whether the batch sampler takes no others.
        everything = sampler.kept
        size = getattr(batch_sampler, 'batch_size', 1) * get_world_size()
        few = everything[-size:]
        sampler.keep(few)
        steered = len(batch_sampler) <= 1 and all(
            index in few for batch in batch_sampler for index in batch
        )
        sampler.keep(everything)
        if not steered:
            raise TypeError(
                f'{name} cannot steer a {type(batch_sampler).__name__}: it '
                'gives other samples than those that are kept. Remove '
                'train_dataloader.batch_sampler.'
            )
        return sampler

    def _check_schedulers(self, runner: Runner, loader: DataLoader) -> None:
        """Warns of learning rates that depend on the length of epochs."""
        first = self.interval * len(loader)
        schedulers: Any = runner.param_schedulers
        if isinstance(schedulers, dict):
            schedulers = [one for some in schedulers.values() for one in some]
        for scheduler in schedulers or []:
            if not scheduler.by_epoch and scheduler.end > first:
                runner.logger.warning(
                    f'{type(self).__name__}: {type(scheduler).__name__} '
                    'counts iterations, of which condensed epochs have less: '
                    'it will not get to its end. Set by_epoch=True and '
                    'convert_to_iter_based=False in param_scheduler.'
                )

    def before_train_epoch(self, runner: Runner) -> None:
        """Forgets what was seen of an epoch that was not ended.

        Args:
            runner (Runner): The runner.
        """
        device = next(runner.model.parameters()).device
        self._latest = torch.full(
            (self.condensation.number,), torch.nan, device=device
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Reads which images the batch has.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The iteration in the epoch.
            data_batch (dict): The batch. Defaults to None.

        Raises:
            ValueError: If the samples do not tell their index.
        """
        samples = data_batch['data_samples']
        found = [sample.metainfo.get('sample_idx') for sample in samples]
        if None in found:
            raise ValueError(
                f'{type(self).__name__}: the samples have no sample_idx, the '
                'index in the data set. Add it to meta_keys of the last '
                'transform in train_dataloader.dataset.pipeline: '
                "dict(type='PackDetInputs', meta_keys=('sample_idx', ...))."
            )
        self._images = [int(index) for index in found]

    def _see(
        self, name: str, loss: nn.Module, args: Any, inputs: dict, result: Any
    ) -> None:
        """Computes the values of the batch from the inputs of a loss."""
        if not self._images:
            return
        number = len(self._images)
        try:
            if self.value == 'entropy':
                values = entropies(inputs['preds_S'], number)
            else:
                values = image_losses(loss, inputs, number)
        except ValueError as error:
            raise ValueError(
                f'{type(self).__name__}: the value of an image cannot be '
                f'told from the inputs of "{name}": {error} Name another '
                'loss in losses, or take another value.'
            ) from error
        self._values[name] = values

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Keeps the values of the batch.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The iteration in the epoch.
            data_batch (dict): The batch. Defaults to None.
            outputs (dict | None): The losses. Defaults to None.
        """
        images, self._images = self._images, []
        values, self._values = self._values, {}
        # None where distillation has been stopped.
        if values:
            self._latest[images] = torch.stack([*values.values()]).sum(0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Takes the values of all ranks in, and condenses when it is time.

        Args:
            runner (Runner): The runner.
        """
        seen = self._latest.isfinite()
        table = torch.stack(
            [self._latest.where(seen, 0).double(), seen.double()]
        )
        all_reduce(table)
        # 0 / 0 where no rank has seen it.
        self.condensation.observe(table[0] / table[1])
        if (runner.epoch + 1) % self.interval == 0:
            self._condense(runner)

    def _condense(self, runner: Runner) -> None:
        condensation = self.condensation
        mixed = condensation.step()
        self._sampler.keep(condensation.kept.tolist())
        number, kept = condensation.number, len(condensation.kept)
        scores = condensation.scores()
        is_kept = condensation.history[-1]
        runner.logger.info(
            f'{type(self).__name__}: {kept} of {number} samples are kept '
            f'({kept / number:.1%}), {len(mixed)} of them with another one '
            'mixed into it. Mean values: '
            f'{scores[is_kept].mean():.4g} of those kept, '
            f'{scores[~is_kept].mean():.4g} of the others.'
        )
        if not is_main_process():
            return
        # Imported here, as it takes long.
        from kdvit_mm.visualization.condensation import draw_condensation

        runner.visualizer.add_image(
            'condensation',
            draw_condensation(
                scores.numpy(),
                torch.stack(condensation.history).numpy(),
                condensation.partners.numpy(),
            ),
            step=runner.epoch + 1,
        )

    def after_train(self, runner: Runner) -> None:
        """Leaves the losses alone.

        Args:
            runner (Runner): The runner.
        """
        while self._handles:
            self._handles.pop().remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the values and what is kept.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        checkpoint['condensation'] = self.condensation.state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes back values and what was kept in a resumed run.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint that was loaded.
        """
        if runner._resume and 'condensation' in checkpoint:
            self.condensation.load_state(checkpoint['condensation'])
            self._sampler.keep(self.condensation.kept.tolist())


@torch.no_grad()
def entropies(logits: Any, number: int) -> torch.Tensor:
    """Computes the entropy of each image's class probabilities.

    Args:
        logits (torch.Tensor): Class scores of shape (N, C, …).
        number (int): Number of images, N.

    Returns:
        torch.Tensor: Mean entropy over an image's positions, of shape (N,).

    Raises:
        ValueError: If they are not class scores of N images.
    """
    if (
        not isinstance(logits, torch.Tensor)
        or logits.dim() < 2
        or len(logits) != number
    ):
        raise ValueError(
            f'preds_S is {describe(logits)}, not class scores of {number} '
            'images.'
        )
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).reshape(number, -1).mean(1)


@torch.no_grad()
def image_losses(
    loss: nn.Module, inputs: dict[str, Any], number: int
) -> torch.Tensor:
    """Computes a distill loss for each image alone.

    Args:
        loss (nn.Module): The loss; what it remembers does not change.
        inputs (dict[str, Any]): Its inputs of a batch.
        number (int): Number of images, N.

    Returns:
        torch.Tensor: The losses, of shape (N,).

    Raises:
        ValueError: If an input is not one of N images.
    """
    with eval_mode(loss), isolated_rng(0):
        return torch.stack([
            # Without the hooks, or this would be called again.
            loss.forward(
                **{
                    key: of_image(value, n, number)
                    for key, value in inputs.items()
                }
            )
            for n in range(number)
        ]).float()  # fmt: skip


def of_image(value: Any, n: int, number: int) -> Any:
    """What of a record is of one image.

    Args:
        value (Any): Tensors with a row per image, nested as heads return
            them, or samples; anything else is of no image.
        n (int): The image.
        number (int): Number of images.

    Returns:
        Any: The same for a batch of this image alone.

    Raises:
        ValueError: If a tensor or list does not have a row per image.
    """
    if isinstance(value, torch.Tensor):
        if value.dim() == 0 or len(value) != number:
            raise ValueError(
                f'it has the shape {describe(value)} for {number} images.'
            )
        return value[n : n + 1]
    if not isinstance(value, (list, tuple)):
        return value
    parts = (torch.Tensor, list, tuple, type(None))
    if all(isinstance(x, parts) for x in value):
        return [of_image(x, n, number) for x in value]
    if len(value) != number:
        raise ValueError(f'it has {len(value)} samples for {number} images.')
    return [value[n]]
