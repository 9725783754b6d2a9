"""What loss_time.py measures of losses for classifiers.

Each loss is beside mmrazor's class of it or, where there is none, beside a
plain form of its formula.
"""

import itertools
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from kdvit_mm.models.losses.relation.sskd import VIEWS

CLASSES, CHANNELS, SIZE = 1000, 512, 64
#: Images and negatives of CRD, whose rival gathers an entry for each.
CONTRASTED, NEGATIVES = 64, 4096
TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


class Row(NamedTuple):
    """What is measured: ``loss(connect(student), teacher)``."""

    loss: Callable[[Any, Any], torch.Tensor]
    student: Any = None
    teacher: Any = None
    connect: Callable[[Any], Any] = lambda student: student
    rival: str = ''


def classifier_rows(inputs: Any, images: int) -> dict[str, Row]:
    """Rows of losses on logits, pooled features and maps.

    Args:
        inputs (Inputs): What draws tensors and builds losses.
        images (int): Rows of logits, of which maps have a thirty-second, at
            least two.

    Returns:
        dict[str, Row]: The rows by name.
    """
    number = max(2, images // 32)
    return (
        logit_rows(inputs, images)
        | pooled_rows(inputs, images)
        | map_rows(inputs, number)
        | region_rows(inputs, number)
    )


def beside(name: str, rival: str, ours: Row, theirs: Row) -> dict[str, Row]:
    """A loss and what it is compared with."""
    return {rival: theirs, name: ours._replace(rival=rival)}


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, tau: Any = 1.0
) -> torch.Tensor:
    """KL divergence of each row at a temperature, without its square."""
    log_s = F.log_softmax(student / tau, 1)
    return F.kl_div(log_s, F.softmax(teacher / tau, 1), reduction='none').sum(
        1
    )


def plain_kd(
    student: torch.Tensor, teacher: torch.Tensor, tau: float
) -> torch.Tensor:
    """Hinton's distillation."""
    return tau**2 * divergence(student, teacher, tau).mean()


def plain_nkd(
    labels: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """NKD, with the true class cut out of the rows."""
    own = F.one_hot(labels, CLASSES).bool()
    true = teacher.softmax(1)[own] * student.log_softmax(1)[own]
    others_s, others_t = (x[~own].view(len(x), -1) for x in (student, teacher))
    others = others_t.softmax(1) * others_s.log_softmax(1)
    return -true.mean() - others.sum(1).mean()


def plain_normkd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """NormKD."""
    tau_s, tau_t = (x.std(1, keepdim=True) for x in (student, teacher))
    rows = divergence(student / tau_s, teacher / tau_t)
    return (tau_t.squeeze(1) ** 2 * rows).mean()


def plain_dtkd(
    tau: float, student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """DTKD."""
    max_s, max_t = (x.max(1, keepdim=True).values for x in (student, teacher))
    tau_s = 2 * tau * max_s / (max_s + max_t)
    tau_t = 2 * tau * max_t / (max_s + max_t)
    rows = divergence(student / tau_s, teacher / tau_t)
    shared = ((tau_s * tau_t).squeeze(1) * rows).mean()
    return shared + plain_kd(student, teacher, tau)


def z_score(logits: torch.Tensor) -> torch.Tensor:
    """Logits of mean 0 and deviation 1."""
    mean, std = logits.mean(1, keepdim=True), logits.std(1, keepdim=True)
    return (logits - mean) / (std + 1e-7)


def plain_lskd(
    tau: float, student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """LSKD around KD."""
    return plain_kd(z_score(student), z_score(teacher), tau)


def plain_mlld(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """MLLD, the first half of the rows being weak views."""
    weak_s, strong_s = student.chunk(2)
    weak_t, strong_t = teacher.chunk(2)
    probs = weak_t.softmax(1)
    unsure, rare = (
        (x <= x.quantile(0.5)).float().mean()
        for x in (probs.max(1).values, probs.sum(0))
    )
    total: Any = 0.0
    for tau in TEMPERATURES:
        view = (weak_s, weak_t) if tau in (2, 6) else (strong_s, strong_t)
        total = total + plain_kd(*view, tau)
        total = total + unsure * plain_kd(weak_s, weak_t, tau)
        p_s, p_t = (weak_s / tau).softmax(1), (weak_t / tau).softmax(1)
        batch = (p_s @ p_s.mT - p_t @ p_t.mT).square().sum() / len(p_s)
        classes = (p_s.mT @ p_s - p_t.mT @ p_t).square().sum() / CLASSES
        total = total + unsure * batch + rare * classes
    return total


def logit_rows(inputs: Any, images: int) -> dict[str, Row]:
    """Losses on logits of shape (images, 1000)."""
    build = inputs.build
    logits = inputs.pair(partial(inputs.draw, images, CLASSES))
    labels = (torch.arange(images) % CLASSES).to(inputs.like.device)

    def row(loss: Callable, **given: Any) -> Row:
        return Row(partial(loss, **given) if given else loss, *logits)

    def labelled(name: str, **options: Any) -> Row:
        return row(build(name, **options), gt_labels=labels)

    views = [
        BaseDataElement(metainfo={'view': view})
        for view in ('weak', 'strong')
        for _ in range(images // 2)
    ]
    standard = {'type': 'KDLoss', 'tau': 2}
    return (
        beside('KDLoss', 'mmrazor.KLDivergence',
               row(build('KDLoss', tau=4)),
               row(build('mmrazor.KLDivergence', tau=4)))
        | beside('DKDLoss, classes', 'mmrazor.DKDLoss, classes',
                 labelled('DKDLoss', beta=8, tau=4),
                 labelled('mmrazor.DKDLoss', beta=8, tau=4))
        | beside('DISTLoss, classes', 'mmrazor.DISTLoss, classes',
                 row(build('DISTLoss', tau=4)),
                 row(build('mmrazor.DISTLoss', tau=4)))
        | beside('WSLDLoss', 'mmrazor.WSLD',
                 labelled('WSLDLoss', tau=2), labelled('mmrazor.WSLD', tau=2))
        | beside('NKDLoss', 'NKD, plain', labelled('NKDLoss'),
                 row(partial(plain_nkd, labels)))
        | beside('NormKDLoss', 'NormKD, plain', row(build('NormKDLoss')),
                 row(plain_normkd))
        | beside('DTKDLoss', 'DTKD, plain', row(build('DTKDLoss', tau=4)),
                 row(partial(plain_dtkd, 4)))
        | beside('LogitStandardise', 'LSKD, plain',
                 row(build('LogitStandardise', loss=standard)),
                 row(partial(plain_lskd, 2)))
        | beside('MLLDLoss', 'MLLD, plain',
                 row(build('MLLDLoss'), data_samples=views), row(plain_mlld))
        | beside('AnnealingKDLoss', 'annealing KD, plain',
                 row(build('AnnealingKDLoss', max_tau=10)),
                 row(lambda s, t: F.mse_loss(s, 0.1 * t)))
    )  # fmt: skip


def pooled_rows(inputs: Any, images: int) -> dict[str, Row]:
    """Losses on pooled features of shape (images, 512)."""
    build = inputs.build
    pooled = inputs.pair(partial(inputs.draw, images, CHANNELS))
    device = inputs.like.device
    theirs = [
        build(f'mmrazor.{name}', with_l2_norm=False, loss_weight=weight)
        for name, weight in (('DistanceWiseRKD', 25), ('AngleWiseRKD', 50))
    ]
    few = inputs.pair(partial(inputs.draw, CONTRASTED, CHANNELS))
    samples = []
    for index in range(CONTRASTED):
        sample = BaseDataElement(metainfo={'sample_idx': index})
        sample.gt_label = torch.tensor([index % 10], device=device)
        samples.append(sample)
    indexed = []
    for index in range(CONTRASTED):
        chosen = torch.randint(CLASSES, (NEGATIVES + 1,))
        chosen[0] = index
        sample = BaseDataElement()
        sample.set_data(
            {
                'sample_idx': torch.tensor(index),
                'contrast_sample_idxs': chosen.to(device),
            }
        )
        indexed.append(sample)
    contrast = build(
        'mmrazor.CRDLoss', neg_num=NEGATIVES, sample_n=50000, dim_out=128
    )
    embeds = [nn.Linear(CHANNELS, 128).to(device) for _ in range(2)]

    def their_crd(student: torch.Tensor, teacher: torch.Tensor) -> Any:
        embedded = [
            F.normalize(embed(x.float()))
            for embed, x in zip(embeds, (student, teacher), strict=True)
        ]
        # It prints when it is called first.
        with redirect_stdout(None):
            return contrast(*embedded, indexed).sum()

    crd = build(
        'CRDLoss',
        student_channels=CHANNELS,
        teacher_channels=CHANNELS,
        num_data=50000,
        num_negatives=NEGATIVES,
    )
    images -= images % len(VIEWS)
    logits = inputs.pair(partial(inputs.draw, images, CLASSES))
    rotated = []
    for index, view in itertools.product(range(images // len(VIEWS)), VIEWS):
        sample = BaseDataElement(metainfo={'view': view})
        sample.gt_label = torch.tensor([index % 10], device=device)
        rotated.append(sample)
    sskd = partial(
        build(
            'SSKDLoss',
            student_channels=CHANNELS,
            teacher_channels=CHANNELS,
            head_ckpt=None,
        ),
        data_samples=rotated,
        feats_S=pooled[0].detach()[:images],
        feats_T=pooled[1][:images],
    )
    return (
        beside('RKDLoss', 'mmrazor, RKD', Row(build('RKDLoss'), *pooled),
               Row(lambda s, t: sum(loss(s, t) for loss in theirs), *pooled))
        | beside('CRDLoss', 'mmrazor.CRDLoss',
                 Row(partial(crd, data_samples=samples), *few),
                 Row(their_crd, *few))
        | {'SSKDLoss': Row(sskd, *logits)}
    )  # fmt: skip


def plain_sp(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """SP."""
    grams = [
        F.normalize(x.flatten(1) @ x.flatten(1).mT) for x in (student, teacher)
    ]
    return (grams[0] - grams[1]).square().sum() / len(student) ** 2


def plain_fsp(student: Any, teacher: Any) -> torch.Tensor:
    """FSP of two neighbouring maps."""
    flows = []
    for first, second in (student, teacher):
        first = F.adaptive_avg_pool2d(first, second.shape[2:])
        flow = torch.einsum('nchw,ndhw->ncd', first, second)
        flows.append(flow / second[0, 0].numel())
    return F.mse_loss(flows[0], flows[1])


def plain_hcl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """ReviewKD's loss of a level."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        weight /= 2
        total += weight
        ours, theirs = (
            F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
        )
        loss = loss + weight * F.mse_loss(ours, theirs)
    return loss / total


def plain_dspp(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """DSPP with three levels, image by image."""
    vectors = []
    for maps in (student, teacher):
        pooled = [
            F.avg_pool2d(
                maps,
                kernel := -(-SIZE // level),
                padding=(kernel * level - SIZE + 1) // 2,
            ).flatten(1)
            for level in (1, 2, 3)
        ]
        vectors.append(F.normalize(torch.cat(pooled, 1)))
    total: Any = 0.0
    for ours, theirs in zip(*vectors, strict=True):
        number = len(theirs) // 5
        largest = theirs.topk(number).indices
        others = theirs.topk(len(theirs) - number, largest=False).indices
        total = total + 0.9 * torch.dist(ours[largest], theirs[largest])
        total = total + 2.5 * torch.dist(ours[others], theirs[others])
    return total / len(student)


def map_rows(inputs: Any, number: int) -> dict[str, Row]:
    """Losses on maps of shape (number, 512, 64, 64)."""
    build = inputs.build
    maps = inputs.pair(partial(inputs.draw, number, CHANNELS, SIZE, SIZE))
    halves = inputs.pair(
        partial(inputs.draw, number, CHANNELS, SIZE // 2, SIZE // 2)
    )
    stages = [maps[0], halves[0]], [maps[1], halves[1]]
    norm = nn.BatchNorm2d(CHANNELS).to(inputs.like.device)
    return (
        beside('ATLoss', 'mmrazor.ATLoss', Row(build('ATLoss'), *maps),
               Row(build('mmrazor.ATLoss'), *maps))
        | beside('OFDLoss', 'mmrazor.OFDLoss',
                 Row(partial(build('OFDLoss'), norm_T=norm), *maps),
                 Row(build('mmrazor.OFDLoss'), *maps))
        | beside('FSPLoss', 'FSP, plain', Row(build('FSPLoss'), *stages),
                 Row(plain_fsp, *stages))
        | beside('SPLoss', 'SP, plain', Row(build('SPLoss'), *maps),
                 Row(plain_sp, *maps))
        | beside('HCLLoss', 'HCL, plain', Row(build('HCLLoss'), *maps),
                 Row(plain_hcl, *maps))
        | beside('DSPPLoss', 'DSPP, plain',
                 Row(build('DSPPLoss', num_levels=3), *maps),
                 Row(plain_dspp, *maps))
    )  # fmt: skip


def plain_catkd(
    fcs: list[nn.Linear], student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    """CAT-KD, on class maps of all places."""
    pooled = []
    for fc, maps in zip(fcs, (student, teacher), strict=True):
        classes = F.conv2d(maps, fc.weight[:, :, None, None], fc.bias)
        pooled.append(
            F.normalize(F.adaptive_avg_pool2d(classes, 2).flatten(2), dim=2)
        )
    return F.mse_loss(pooled[0], pooled[1])


def plain_sdd(
    fcs: list[nn.Linear],
    labels: torch.Tensor,
    student: torch.Tensor,
    teacher: torch.Tensor,
) -> torch.Tensor:
    """SDD around KD, region by region."""
    maps = [F.adaptive_avg_pool2d(x, 4) for x in (student, teacher)]
    losses = []
    verdict = None
    for scale in (1, 2, 4):
        pooled = [F.adaptive_avg_pool2d(x, scale) for x in maps]
        for row, column in itertools.product(range(scale), repeat=2):
            ours, theirs = (
                fc(x[:, :, row, column])
                for fc, x in zip(fcs, pooled, strict=True)
            )
            right = theirs.argmax(1) == labels
            verdict = right if verdict is None else verdict
            weight = torch.where(right == verdict, 1.0, 2.0)
            losses.append(weight * 16 * divergence(ours, theirs, 4.0))
    return torch.stack(losses).mean()


def region_rows(inputs: Any, number: int) -> dict[str, Row]:
    """Losses that classify places of maps of shape (number, 512, 64, 64)."""
    maps = inputs.pair(partial(inputs.draw, number, CHANNELS, SIZE, SIZE))
    device = inputs.like.device
    fcs = [nn.Linear(CHANNELS, CLASSES).to(device) for _ in range(2)]
    labels = torch.arange(number, device=device)
    given = {'fc_S': fcs[0], 'fc_T': fcs[1]}
    sdd = inputs.build('ScaleDecouple', loss={'type': 'KDLoss', 'tau': 4})
    return (
        beside('CATKDLoss', 'CAT-KD, plain',
               Row(partial(inputs.build('CATKDLoss'), **given), *maps),
               Row(partial(plain_catkd, fcs), *maps))
        | beside('ScaleDecouple', 'SDD, plain',
                 Row(partial(sdd, gt_labels=labels, **given), *maps),
                 Row(partial(plain_sdd, fcs, labels), *maps))
    )  # fmt: skip
