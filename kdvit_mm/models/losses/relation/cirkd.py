"""Cross-image relational distillation of segmentors."""

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

#: Pixels that a class of an image adds to its queue at most.
NEW_PIXELS = 16
#: Similarities that are held in memory at once.
BLOCK = 2**24


@MODELS.register_module()
class CIRKDMiniBatchLoss(DistillLoss):
    r"""Preserves the similarities of pixels within a batch.

    With F the features of an image, a column per pixel and of length 1, and
    :math:`P_{ij}` the softmax over the columns of
    :math:`F_i^\top F_j / \tau`,

    .. math:: L = \frac{1}{N M H W} \sum_{i=1}^N \sum_{j=1}^M \sum_{rows}
        KL(P^T_{ij} \| P^S_{ij})

    for the N images of a rank and the M of all ranks, an image with itself
    included. Only heights and widths must be equal.

    Yang et al., *Cross-Image Relational Knowledge Distillation for Semantic
    Segmentation*, CVPR 2022, arXiv:2204.06986. Official code:
    https://github.com/winycg/CIRKD (``losses/cirkd_mini_batch.py``). There
    the exchange between ranks is written but switched off; with it, the mean
    over the ranks is the loss of the whole batch, and so is its gradient. Its
    time grows with the number of ranks. The official code averages maps of
    256 × 256 and more over 4 × 4 pixels first, which is left to the choice of
    the record: here similarities are computed in blocks, with their gradient,
    and never held all at once.

    The paper's weight is 1, on the features before the classifier, beside
    :class:`CIRKDMemoryLoss` and a pixel-wise KD on the logits with
    temperature and weight 1.

    Args:
        tau (float): Temperature of the similarities. Defaults to 0.1.
        across_ranks (bool): Whether the images of all ranks are paired. False
            is the released code. Defaults to True.
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    takes_dims = (4,)
    equal_dims = 1
    equal_sizes = True

    def __init__(
        self,
        tau: float = 0.1,
        across_ranks: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = tau
        self.across_ranks = across_ranks

    def level_loss(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Computes one level from maps of shape (N, C, H, W)."""
        pixels = student[0, 0].numel()
        args = []
        for maps in (student, teacher):
            own = unit_vectors(maps)
            everyone = gather_rows(own) if self.across_ranks else own
            args += [_pixels(own), _pixels(everyone)]
        return _RelationKL.apply(*args, pixels, self.tau)


class _RelationKL(torch.autograd.Function):
    """KL divergence of similarities, one row per pixel and image.

    The gradient is computed together with the value, so that no more than a
    block of similarities is ever in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows_s: torch.Tensor,
        columns_s: torch.Tensor,
        rows_t: torch.Tensor,
        columns_t: torch.Tensor,
        pixels: int,
        tau: float,
    ) -> torch.Tensor:
        rows_s, rows_t = rows_s / tau, rows_t / tau
        total = rows_s.new_zeros(())
        grad_rows = torch.empty_like(rows_s)
        grad_columns = torch.zeros_like(columns_s)
        height = max(1, BLOCK // len(columns_s))
        for start in range(0, len(rows_s), height):
            block = slice(start, start + height)
            log_s, log_t = (
                (rows[block] @ columns.mT)
                .unflatten(1, (-1, pixels))
                .log_softmax(2)
                for rows, columns in ((rows_s, columns_s), (rows_t, columns_t))
            )
            total += F.kl_div(log_s, log_t, reduction='sum', log_target=True)
            slope = log_s.exp_().sub_(log_t.exp_()).flatten(1)
            grad_rows[block] = slope @ columns_s
            grad_columns += slope.mT @ rows_s[block]
        number = len(rows_s) * (len(columns_s) // pixels)
        ctx.save_for_backward(
            grad_rows / (tau * number), grad_columns / number
        )
        return total / number

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        grad_rows, grad_columns = ctx.saved_tensors
        return grad * grad_rows, grad * grad_columns, None, None, None, None


@MODELS.register_module()
class CIRKDMemoryLoss(DistillLoss):
    r"""Preserves the similarities of pixels to earlier ones of every class.

    The student's map goes through a head (1 × 1 convolution, batch norm, ReLU,
    1 × 1 convolution) to the teacher's channels. With s and t the vectors of
    length 1 of a pixel, and V the teacher's vectors that two queues of each
    class keep, one of single pixels and one of regions, which are all pixels
    of a class in an image averaged,

    .. math:: L = \beta\, \overline{KL}\big(\sigma(V_p t / \tau) \|
        \sigma(V_p s / \tau)\big) + \gamma\, \overline{KL}\big(\sigma(V_r t /
        \tau) \| \sigma(V_r s / \tau)\big),

    :math:`\sigma` being the softmax over a random choice from the queues of
    all classes, and the mean that over all pixels with a label. Before that,
    each image adds 16 random pixels of each of its classes, and the regions.

    Yang et al., *Cross-Image Relational Knowledge Distillation for Semantic
    Segmentation*, CVPR 2022, arXiv:2204.06986. Official code:
    https://github.com/winycg/CIRKD (``losses/cirkd_memory.py``). Where
    a class has n pixels, it adds 16 of the first n of the map in place of the
    class's own, which ``released_positions=True`` repeats. A queue here is a
    ring; there, pixels that would pass its end overwrite its last places
    instead. Its batch norm is synchronised; so is this one where the config
    says ``sync_bn='torch'``. It has no running statistics, as it is not used
    in testing.

    The queues are part of checkpoints: num_classes · (pixel_memory +
    region_memory) · teacher_channels numbers. With several ranks they hold
    the images of all and are equal everywhere. They change in training mode
    only. A batch without any label changes nothing and has the loss 0.

    Args:
        student_channels (int): Channels of the student's map.
        teacher_channels (int): Channels of the teacher's map.
        num_classes (int): Number of classes.
        pixel_memory (int): Pixels that a queue keeps. Defaults to 20000.
        region_memory (int): Regions that a queue keeps. Defaults to 2000.
        pixel_contrast (int): Pixels to compare with, of all classes; of one,
            pixel_contrast // num_classes + 1. Defaults to 4096.
        region_contrast (int): The same for regions. Defaults to 1024.
        tau (float): Temperature of the similarities. Defaults to 0.1.
        pixel_weight (float): The paper's :math:`\beta`. Defaults to 0.1.
        region_weight (float): The paper's :math:`\gamma`. Defaults to 0.1.
        ignore_index (int): Label of pixels without a class. Defaults to 255.
        released_positions (bool): Whether pixels are added as in the released
            code. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If a queue is smaller than what is chosen from it.
    """

    takes_dims = (4,)
    equal_dims = 1
    equal_sizes = True
    takes_one_level = True

    pixel_queue: torch.Tensor
    region_queue: torch.Tensor
    pixel_count: torch.Tensor
    region_count: torch.Tensor

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        pixel_memory: int = 20000,
        region_memory: int = 2000,
        pixel_contrast: int = 4096,
        region_contrast: int = 1024,
        tau: float = 0.1,
        pixel_weight: float = 0.1,
        region_weight: float = 0.1,
        ignore_index: int = 255,
        released_positions: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.num_classes = num_classes
        self.tau = tau
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.ignore_index = ignore_index
        self.released_positions = released_positions
        self.project_head = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.BatchNorm2d(teacher_channels, track_running_stats=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        self.contrast: dict[str, int] = {}
        for kind, memory, contrast in (
            ('pixel', pixel_memory, pixel_contrast),
            ('region', region_memory, region_contrast),
        ):
            number = contrast // num_classes + 1
            if number > memory:
                raise ValueError(
                    f'CIRKDMemoryLoss: {kind}_contrast={contrast} takes '
                    f'{number} entries of each of {num_classes} classes, but '
                    f'{kind}_memory is {memory}. Set {kind}_memory to '
                    f'{number} or more.'
                )
            self.contrast[kind] = number
            queue = torch.randn(num_classes, memory, teacher_channels)
            self.register_buffer(f'{kind}_queue', unit_vectors(queue, 2))
            #: Entries of each class that the queue has been given so far.
            self.register_buffer(
                f'{kind}_count', torch.zeros(num_classes, dtype=torch.long)
            )

    def level_losses(
        self,
        students: list[torch.Tensor],
        teachers: list[torch.Tensor],
        data_samples: Sequence[BaseDataElement] | None,
    ) -> list[torch.Tensor]:
        """Computes the loss of one pair of maps and adds to the queues.

        Args:
            students (list[torch.Tensor]): The student's map, of shape
                (N, C, H, W), as the only entry.
            teachers (list[torch.Tensor]): The teacher's, likewise.
            data_samples (Sequence[BaseDataElement] | None): The batch's
                samples with ``gt_sem_seg``, label maps of one size each,
                which are resized (nearest) to the map's.

        Returns:
            list[torch.Tensor]: The loss, a scalar.

        Raises:
            ValueError: If a map has other channels than the loss; sizes
                differ; labels are missing, not N, of different sizes or out
                of range; no pixel has had a label so far; or the batch is a
                single pixel.
        """
        student, teacher = students[0], teachers[0]
        for side, maps in (('student', student), ('teacher', teacher)):
            channels = getattr(self, f'{side}_channels')
            if maps.size(1) != channels:
                raise ValueError(
                    f"CIRKDMemoryLoss: the {side}'s map has the shape "
                    f'{describe(maps)}, but {side}_channels is {channels}. '
                    f'Set {side}_channels={maps.size(1)}.'
                )
        if student.numel() == self.student_channels:
            raise ValueError(
                'CIRKDMemoryLoss: the batch norm of its head needs more than '
                f'one pixel, but preds_S is {describe(student)}. Set '
                'train_dataloader.batch_size to more than one, or record '
                'larger maps.'
            )
        labels = self._read_labels(data_samples, student)
        # Maps of half precision outside autocast.
        dtype = next(self.project_head.parameters()).dtype
        projected = self.project_head(student.to(dtype))
        rows_s = _pixels(unit_vectors(projected.to(student.dtype)))
        rows_t = _pixels(unit_vectors(teacher))
        if self.training:
            self._add(rows_t, labels)
        has_label = labels.flatten() != self.ignore_index
        if not has_label.any():
            self._refuse_first_without_labels()
            return [rows_s.sum() * 0]
        rows_s, rows_t = rows_s[has_label], rows_t[has_label]
        return [
            weight * self._contrast(kind, rows_s, rows_t)
            for kind, weight in (
                ('pixel', self.pixel_weight),
                ('region', self.region_weight),
            )
        ]

    def _read_labels(
        self,
        data_samples: Sequence[BaseDataElement] | None,
        maps: torch.Tensor,
    ) -> torch.Tensor:
        """The label of each of the map's pixels, (N, HW)."""
        if (
            data_samples is None
            or len(data_samples) != len(maps)
            or not all('gt_sem_seg' in sample for sample in data_samples)
        ):
            raise ValueError(
                'CIRKDMemoryLoss needs a label map (gt_sem_seg) for each of '
                f'{len(maps)} images. Add data_samples=dict(recorder='
                "'samples', from_student=True, data_idx=1) to "
                f'loss_forward_mappings.{LOSS_NAME}, with student_recorders='
                "dict(samples=dict(type='ModuleInputs', source=''))."
            )
        found = [sample.gt_sem_seg.data for sample in data_samples]
        if len({label.shape for label in found}) > 1:
            raise ValueError(
                'CIRKDMemoryLoss: label maps of one batch have the shapes '
                f'{describe(found)}. Crop or resize images to one size in '
                'the pipeline, or set size in the data_preprocessor.'
            )
        labels = F.interpolate(
            torch.stack(found).to(maps.device).float(),
            maps.shape[2:],
            mode='nearest',
        )
        labels = labels.long().flatten(1)
        is_class = (labels >= 0) & (labels < self.num_classes)
        if not (is_class | (labels == self.ignore_index)).all():
            raise ValueError(
                f'CIRKDMemoryLoss: labels from {labels.min()} to '
                f'{labels.max()} are neither in [0, {self.num_classes}) nor '
                f'ignore_index={self.ignore_index}. Set num_classes and '
                'ignore_index to those of the decode_head, and '
                'reduce_zero_label of the data set as there.'
            )
        return labels

    def _refuse_first_without_labels(self) -> None:
        if not self.pixel_count.any():
            raise ValueError(
                'CIRKDMemoryLoss: no pixel has had a label so far, all are '
                f'ignore_index={self.ignore_index}. Set ignore_index to that '
                'of the decode_head; if it is, look at the label maps and at '
                'reduce_zero_label of the data set.'
            )

    def _contrast(
        self, kind: str, rows_s: torch.Tensor, rows_t: torch.Tensor
    ) -> torch.Tensor:
        queue = getattr(self, f'{kind}_queue')
        # One choice for all classes, as in the official code.
        picks = self._permutation(queue)[: self.contrast[kind]]
        # A copy, which the next step leaves as it is.
        columns = queue[:, picks].flatten(0, 1).to(rows_s.dtype).mT
        log_s, log_t = (
            (rows / self.tau @ columns).log_softmax(1)
            for rows in (rows_s, rows_t)
        )
        return F.kl_div(log_s, log_t, reduction='batchmean', log_target=True)

    def _permutation(self, queue: torch.Tensor) -> torch.Tensor:
        return torch.randperm(queue.size(1), device=queue.device)

    @torch.no_grad()
    def _add(self, rows: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds pixels and regions of a batch to the queues of all ranks.

        Args:
            rows (torch.Tensor): The teacher's vectors, of shape (N · HW, C).
            labels (torch.Tensor): Their labels, of shape (N, HW).
        """
        images, pixels = labels.shape
        number = images * self.num_classes
        # A group is a class in an image; a last one has the ignored pixels.
        group = torch.arange(images, device=labels.device)[:, None]
        group = labels + group * self.num_classes
        group = group.where(labels != self.ignore_index, number).flatten()
        group, order = group.sort(stable=True)
        sizes = torch.zeros(number + 1, dtype=torch.long, device=rows.device)
        sizes.index_add_(0, group, torch.ones_like(group))
        starts = sizes.cumsum(0) - sizes

        sums = rows.new_zeros(number + 1, rows.size(1))
        sums.index_add_(0, group, rows[order])
        present = sizes[:-1] > 0
        classes = torch.arange(number, device=rows.device) % self.num_classes
        self._push(
            'region', classes[present], unit_vectors(sums[:-1][present])
        )

        place = torch.arange(len(group), device=rows.device) - starts[group]
        chosen = (place < NEW_PIXELS) & (group < number)
        drawn = self._permutations(group, starts)[chosen]
        group = group[chosen]
        if self.released_positions:
            source = group // self.num_classes * pixels + drawn
        else:
            source = order[starts[group] + drawn]
        self._push('pixel', classes[group], rows[source])

    def _permutations(
        self, group: torch.Tensor, starts: torch.Tensor
    ) -> torch.Tensor:
        """A permutation of 0, 1, … for each run of equal groups."""
        keys = torch.rand(len(group), dtype=torch.double, device=group.device)
        return (group + keys).argsort() - starts[group]

    def _push(
        self, kind: str, classes: torch.Tensor, rows: torch.Tensor
    ) -> None:
        queue = getattr(self, f'{kind}_queue')
        count = getattr(self, f'{kind}_count')
        rows = gather_rows(rows).to(queue.dtype)
        classes, order = gather_rows(classes).sort(stable=True)
        new = torch.zeros_like(count)
        new.index_add_(0, classes, torch.ones_like(classes))
        place = torch.arange(len(classes), device=classes.device)
        place -= (new.cumsum(0) - new)[classes]
        # Of more rows than there is room for, the last ones stay.
        size = queue.size(1)
        stays = place >= new[classes] - size
        slot = (count[classes] + place) % size
        queue[classes[stays], slot[stays]] = rows[order[stays]]
        count += new


def _pixels(maps: torch.Tensor) -> torch.Tensor:
    """The vector of each pixel, (N, C, H, W) to (N · HW, C)."""
    return maps.movedim(1, 3).flatten(0, 2)
