"""Contrastive representation distillation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.explain import LOSS_NAME, describe
from kdvit_mm.models.utils.gather import gather_rows
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS

# Of the official code, beside the probabilities of the noise.
EPS = 1e-7


@MODELS.register_module()
class CRDLoss(DistillLoss):
    r"""Contrasts the teacher's embedding of an image with those of others.

    Both features go through a linear layer each, to embeddings u of length 1.
    Two memory banks keep the embeddings of all images of the data set. For
    each image, the student's is compared with the entry i of that image and K
    entries of other classes in the teacher's bank,

    .. math:: p_k = \frac{1}{Z} \exp(u_S \cdot m^T_k / \tau), \qquad
        L_S = -\frac{1}{N} \sum_n \Big(\log \frac{p_i}{p_i + K/M}
        + \sum_{k=1}^K \log \frac{K/M}{p_k + K/M}\Big)

    with M images in the data set, and the teacher's with the student's bank;
    the loss is the sum of both. Z is M times the mean of the exponentials in
    the first batch. Then the entries of the batch move to
    momentum · entry + (1 - momentum) · u, divided by its length. Both layers
    are trained.

    Tian, Krishnan and Isola, *Contrastive Representation Distillation*, ICLR
    2020, arXiv:1910.10699. Official code:
    https://github.com/HobbitLong/RepDistiller (``crd``). There a data set
    draws the K entries, of other classes and without repetition where there
    are enough; here the loss draws them, with repetition. It learns the
    classes from the batches: an entry is drawn for any class until its image
    is first seen, and until then it is a random vector. Scores are products
    with the whole bank, and logarithms are taken where nothing overflows.

    The banks and Z are part of checkpoints. With several ranks they are made
    of all their images and equal everywhere. They change in training mode
    only.

    mmrazor has a class of the same name, which does not apply its
    ``loss_weight``: write ``type='kdvit_mm.CRDLoss'``. Which image a row is
    of is the ``sample_idx`` that mmengine's data sets give and mmpretrain's
    ``PackInputs`` keeps. The paper's weight is 0.8, on the features before
    the classifier.

    Args:
        student_channels (int): Values of the student's features of an image,
            maps being flattened.
        teacher_channels (int): The same of the teacher's.
        num_data (int): Images of the training set, M.
        channels (int): Values of an embedding. Defaults to 128.
        num_negatives (int): Entries of other images, K. Defaults to 16384.
        tau (float): Temperature of the scores. Defaults to 0.07.
        momentum (float): Share of an entry that is kept. Defaults to 0.5.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``num_data`` or ``num_negatives`` is below 1 or
            ``momentum`` not in [0, 1).
    """

    equal_dims = 1
    takes_one_level = True

    bank_s: torch.Tensor
    bank_t: torch.Tensor
    bank_labels: torch.Tensor
    log_z: torch.Tensor

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_data: int,
        channels: int = 128,
        num_negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if num_data < 1 or num_negatives < 1 or not 0 <= momentum < 1:
            raise ValueError(
                'CRDLoss: num_data and num_negatives are at least 1 and '
                f'momentum is in [0, 1), got num_data={num_data}, '
                f'num_negatives={num_negatives}, momentum={momentum}.'
            )
        self.num_data = num_data
        self.num_negatives = num_negatives
        self.tau = tau
        self.momentum = momentum
        self.embed_s = nn.Linear(student_channels, channels)
        self.embed_t = nn.Linear(teacher_channels, channels)
        limit = math.sqrt(3 / channels)
        for name in ('bank_s', 'bank_t'):
            bank = torch.empty(num_data, channels).uniform_(-limit, limit)
            self.register_buffer(name, bank)
        #: Class of each entry, -1 for one whose image was not seen yet.
        self.register_buffer('bank_labels', torch.full((num_data,), -1))
        #: Logarithm of Z of the student's and the teacher's scores, infinite
        #: before the first batch.
        self.register_buffer('log_z', torch.full((2,), torch.inf))

    def check_dataset(self, dataset: Any) -> None:
        """Compares the banks' size with the training set's.

        It is called before the first step of a training.

        Args:
            dataset (Any): The training set, possibly in a wrapper that
                repeats its samples.

        Raises:
            ValueError: If the set is of another size, or its samples have no
                index of their own.
        """
        while hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        if hasattr(dataset, 'datasets'):
            raise ValueError(
                f'CRDLoss: the samples of a {type(dataset).__name__} are '
                'renumbered in each of its parts, but the memory bank '
                'needs one sample_idx per image. Set train_dataloader.dataset '
                'to one data set that has them all.'
            )
        if len(dataset) != self.num_data:
            raise ValueError(
                f'CRDLoss: num_data={self.num_data}, but the training set '
                f'has {len(dataset)} images. Set num_data={len(dataset)}.'
            )

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | None,
    ) -> list[torch.Tensor]:
        """Computes the loss of one pair of features and updates the banks.

        Args:
            students (list[torch.Tensor]): The student's features, of shape
                (N, …), as the only entry.
            teachers (list[torch.Tensor]): The teacher's, likewise.
            data_samples (Sequence[BaseDataElement] | None): The batch's
                samples with ``sample_idx`` and one ``gt_label`` each.

        Returns:
            list[torch.Tensor]: Its two parts, a scalar each.

        Raises:
            ValueError: If a feature is of another size than its layer takes;
                the samples are missing, not N, have no index in
                [0, num_data), or not one hard label each; all images are of
                one class; or the first batch has a single image.
        """
        index, labels = self._read_samples(data_samples, len(students[0]))
        index, labels = (x.to(students[0].device) for x in (index, labels))
        embedded_s = self._embed('student', students[0])
        embedded_t = self._embed('teacher', teachers[0])
        if self.training:
            self._learn_labels(index, labels)
        picks = torch.cat([index[:, None], self._draw_negatives(labels)], 1)
        scores = [
            # The bank changes before the gradient is taken.
            (embedded @ bank.to(embedded.dtype, copy=True).mT).gather(1, picks)
            / self.tau
            for embedded, bank in (
                (embedded_s, self.bank_t),
                (embedded_t, self.bank_s),
            )
        ]
        if self.log_z.isinf().any():
            self._estimate_z(scores)
        losses = [
            self._contrast(score - log_z)
            for score, log_z in zip(scores, self.log_z, strict=True)
        ]
        if self.training:
            self._update_banks(index, embedded_s, embedded_t)
        return losses

    def _read_samples(
        self, data_samples: Sequence[BaseDataElement] | None, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Index in the data set and class of each row, both (N,)."""
        if data_samples is None or len(data_samples) != number:
            raise ValueError(
                f'CRDLoss: {len(data_samples or [])} data_samples for '
                f'{number} rows. Add '
                "data_samples=dict(recorder='samples', from_student=True, "
                f'data_idx=1) to loss_forward_mappings.{LOSS_NAME}, with '
                "student_recorders=dict(samples=dict(type='ModuleInputs', "
                "source=''))."
            )
        found = [sample.get('sample_idx') for sample in data_samples]
        if any(index is None for index in found):
            raise ValueError(
                'CRDLoss: data_samples have no sample_idx, the index in the '
                "data set. Name it in the pipeline's dict(type='PackInputs', "
                "meta_keys=('sample_idx', ...)); the data set must be an "
                'mmengine.BaseDataset.'
            )
        indices = [int(index) for index in found]
        if not 0 <= min(indices) <= max(indices) < self.num_data:
            raise ValueError(
                f'CRDLoss: sample_idx from {min(indices)} to {max(indices)} '
                f'for a memory bank of num_data={self.num_data}. Set '
                'num_data to the number of images of the training set.'
            )
        if not all(
            'gt_score' not in sample
            and 'gt_label' in sample
            and sample.gt_label.numel() == 1
            for sample in data_samples
        ):
            raise ValueError(
                'CRDLoss: data_samples must have one gt_label each and no '
                'gt_score. Remove Mixup or CutMix from train_cfg and '
                'to_onehot from the data_preprocessor: an entry of the '
                'memory bank is of one image.'
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return torch.tensor(indices), labels

    def _embed(self, side: str, features: torch.Tensor) -> torch.Tensor:
        layer = self.embed_s if side == 'student' else self.embed_t
        rows = features.flatten(1)
        if rows.size(1) != layer.in_features:
            raise ValueError(
                f"CRDLoss: the {side}'s features have the shape "
                f'{describe(features)}, but {side}_channels is '
                f'{layer.in_features}. Set {side}_channels={rows.size(1)}, '
                'or record the features after the pooling, source="neck".'
            )
        # Features of half precision outside autocast.
        embedded = layer(rows.to(layer.weight.dtype))
        return unit_vectors(embedded.to(features.dtype))

    @torch.no_grad()
    def _learn_labels(self, index: torch.Tensor, labels: torch.Tensor) -> None:
        known = gather_rows(torch.stack([index, labels], 1))
        self.bank_labels[known[:, 0]] = known[:, 1]

    def _draw_negatives(self, labels: torch.Tensor) -> torch.Tensor:
        """Indices of entries that are of no image of the class, (N, K)."""
        known, order = self.bank_labels.sort()
        first = torch.searchsorted(known, labels)
        number = torch.searchsorted(known, labels, right=True) - first
        others = self.num_data - number
        if (others == 0).any():
            raise ValueError(
                'CRDLoss: all images are of one class, so there is none to '
                'tell them from. Train on more classes.'
            )
        draws = torch.randint(
            2**62, (len(labels), self.num_negatives), device=labels.device
        )
        draws %= others[:, None]
        # Those of the class itself lie in one piece and are skipped.
        draws += number[:, None] * (draws >= first[:, None])
        return order[draws]

    @torch.no_grad()
    def _estimate_z(self, scores: Sequence[torch.Tensor]) -> None:
        means = torch.stack([score.exp().mean(1) for score in scores], 1)
        means = gather_rows(means)
        if len(means) == 1:
            raise ValueError(
                'CRDLoss: the first batch has a single image, which is too '
                'little to estimate Z from. Set train_dataloader.batch_size '
                'to 2 or more.'
            )
        self.log_z.copy_((means.mean(0) * self.num_data).log())

    def _contrast(self, log_p: torch.Tensor) -> torch.Tensor:
        """The loss from log p of the image's own entry, then the others'."""
        noise = self.num_negatives / self.num_data
        log_noise, log_bound = math.log(noise), math.log(noise + EPS)
        own = F.logsigmoid(log_p[:, 0] - log_bound)
        others = F.logsigmoid(log_bound - log_p[:, 1:]).sum(1)
        constant = self.num_negatives * (log_noise - log_bound)
        return -(own + others).mean() - constant

    @torch.no_grad()
    def _update_banks(
        self, index: torch.Tensor, *embedded: torch.Tensor
    ) -> None:
        index = gather_rows(index)
        rows = gather_rows(torch.cat(embedded, 1))
        # At the end of an epoch samplers repeat images: the last row counts.
        is_last = ~(index[:, None] == index).triu(1).any(1)
        index, rows = index[is_last], rows[is_last]
        banks = self.bank_s, self.bank_t
        for bank, new in zip(banks, rows.chunk(2, 1), strict=True):
            moved = torch.lerp(new.to(bank.dtype), bank[index], self.momentum)
            bank[index] = unit_vectors(moved)
