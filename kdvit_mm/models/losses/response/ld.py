"""Localisation distillation between heads that predict distributions."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.models.utils.anchor_regions import AnchorRegions
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.registry import MODELS

HeadOutputs = Sequence[Sequence[torch.Tensor]]


@MODELS.register_module()
class LDLoss(DistillLoss):
    r"""Localisation and class distillation in LD's main and valuable regions.

    For heads that predict a distribution over reg_max + 1 bins for each edge
    of a box, such as mmdet's ``GFLHead``. With
    :math:`K_\tau = \tau^2 \overline{\mathrm{KL}}(T \| S)` the divergence of
    softened logits averaged over its bins or classes, each level adds

    - main region (the positive anchors): the sum over anchors and edges of
      :math:`s K_\tau / 4`, s the student's largest class score;
    - valuable localisation region: the sum over anchors and edges of
      :math:`v K_\tau / 16`, v the IoU of anchor and box;
    - class distillation: the mean of :math:`K_{\tau'}` of the class logits
      over the level's positive anchors.

    The valuable region of a box is all anchors with
    :math:`\gamma t \le D < t`, t being ATSS's threshold for the box and D the
    DIoU of anchor and box. The released code computes D with the anchor's
    area in place of the union's; ``true_diou`` gives the paper's. An anchor
    in the regions of several boxes belongs to the one of the highest IoU.

    Anchors and positives are computed again, by mmdet's own generator and
    assigner from the configs of the student's head: no class is patched for
    it, as recording ``GFLHead.get_targets`` would, any head with one anchor
    per place will do, and teacher and student may be of different classes.

    Zheng et al., *Localization Distillation for Dense Object Detection*,
    CVPR 2022, arXiv:2102.12252. Official code:
    https://github.com/HikariTJU/LD. Equal to its terms loss_ld, loss_ld_vlr
    and loss_kd with ``allowed_border=-1`` and ``pos_weight=-1``, except that
    images without boxes are taken, on which it fails. Its optional feature
    imitation is not part of LD. Statistics are those of a GPU's batch.

    Args:
        anchor_generator (dict): The student's ``bbox_head.anchor_generator``.
        assigner (dict): The student's ``train_cfg.assigner``. Its ``topk``
            (9 if it has none) sets t too.
        reg_max (int): The student's ``bbox_head.reg_max``. Defaults to 16.
        ld_weight (float): Weight of the main region's term, 0.25 in the
            paper; as any of the three, not computed if 0. Defaults to 1.0.
        vlr_weight (float): Weight of the valuable region's term, 0.25 in the
            paper. Defaults to 1.0.
        kd_weight (float): Weight of the class term, 10 in the paper.
            Defaults to 1.0.
        tau (float): Temperature of the distributions. Defaults to 10.
        kd_tau (float): Temperature of the classes. Defaults to 2.
        gamma (float): Lower end of the valuable region. Defaults to 0.25.
        true_diou (bool): Whether D is the paper's DIoU instead of the
            released code's. Defaults to False.
        loss_weight (float): Weight of the three terms. Defaults to 1.0.

    Raises:
        ValueError: If ``anchor_generator`` has several anchors per place.
    """

    compares_classes = True

    def __init__(
        self,
        anchor_generator: dict,
        assigner: dict,
        reg_max: int = 16,
        ld_weight: float = 1.0,
        vlr_weight: float = 1.0,
        kd_weight: float = 1.0,
        tau: float = 10.0,
        kd_tau: float = 2.0,
        gamma: float = 0.25,
        true_diou: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.regions = AnchorRegions(
            'LDLoss', anchor_generator, assigner, gamma, true_diou
        )
        self.reg_max = reg_max
        self.ld_weight = ld_weight
        self.vlr_weight = vlr_weight
        self.kd_weight = kd_weight
        self.tau = tau
        self.kd_tau = kd_tau

    def forward(
        self,
        preds_S: Any,
        preds_T: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> torch.Tensor:
        """Computes the sum of the three terms over all levels.

        Args:
            preds_S (Sequence[Sequence[torch.Tensor]]): What the student's
                head puts out: class logits of shape (N, C, H, W) per level and
                box logits of shape (N, 4 * (reg_max + 1), H, W) per level.
            preds_T (Sequence[Sequence[torch.Tensor]]): The same of the
                teacher's head.
            data_samples (Sequence[DetDataSample] | None): The batch's samples
                with ``gt_instances`` and ``pad_shape``. Defaults to None,
                which is an error.

        Returns:
            torch.Tensor: The loss, a scalar in float32, or float64 for
            float64 input; 0 with gradient 0 where there are no boxes.

        Raises:
            ValueError: If a head is not GFL-type, the heads' shapes differ,
                ``anchor_generator`` has other levels, or there is no ground
                truth; names the key to change.
        """
        self._check_heads(preds_S, preds_T)
        sizes = [(x.size(2), x.size(3)) for x in preds_S[0]]
        device = preds_S[0][0].device
        with torch.autocast(device.type, enabled=False):
            positive, valuable = self.regions(
                sizes, data_samples, len(preds_S[0][0]), device
            )
            areas = [height * width for height, width in sizes]
            losses = [
                torch.stack([*self.level_terms(*level).values()]).sum()
                for level in zip(
                    *preds_S,
                    *preds_T,
                    positive.split(areas, dim=1),
                    valuable.split(areas, dim=1),
                    strict=True,
                )
            ]
            return self.loss_weight * torch.stack(losses).sum()

    def level_terms(
        self,
        cls_S: torch.Tensor,
        box_S: torch.Tensor,
        cls_T: torch.Tensor,
        box_T: torch.Tensor,
        positive: torch.Tensor,
        valuable: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Computes the weighted terms of one level.

        Args:
            cls_S (torch.Tensor): The student's class logits with shape
                (N, C, H, W).
            box_S (torch.Tensor): The student's box logits with shape
                (N, 4 * (reg_max + 1), H, W).
            cls_T (torch.Tensor): The teacher's class logits.
            box_T (torch.Tensor): The teacher's box logits.
            positive (torch.Tensor): The main region, booleans of shape
                (N, H * W).
            valuable (torch.Tensor): Weights of the valuable region with shape
                (N, H * W), 0 outside.

        Returns:
            dict[str, torch.Tensor]: The scalars ``ld``, ``vlr`` and ``kd``.
        """
        terms = {'ld': box_S.new_zeros((), dtype=_at_least_float32(box_S))}
        if self.ld_weight:
            score = _rows(cls_S.detach(), positive).sigmoid().amax(1)
            loss = self._box_divergence(box_S, box_T, positive)
            terms['ld'] = self.ld_weight * (score * loss).sum() / 4
        if self.vlr_weight:
            region = valuable > 0
            loss = self._box_divergence(box_S, box_T, region)
            loss = (valuable[region] * loss).sum() / 16
            terms['vlr'] = self.vlr_weight * loss
        if self.kd_weight:
            loss = _divergence(
                _rows(cls_S, positive), _rows(cls_T, positive), self.kd_tau
            )
            terms['kd'] = self.kd_weight * loss.sum() / max(len(loss), 1)
        return terms

    def _box_divergence(
        self, box_S: torch.Tensor, box_T: torch.Tensor, region: torch.Tensor
    ) -> torch.Tensor:
        """Divergence of shape (n,), summed over the edges of a box."""
        bins = self.reg_max + 1
        loss = _divergence(
            _rows(box_S, region).view(-1, bins),
            _rows(box_T, region).view(-1, bins),
            self.tau,
        )
        return loss.view(-1, 4).sum(1)

    def _check_heads(self, preds_S: HeadOutputs, preds_T: HeadOutputs) -> None:
        channels = 4 * (self.reg_max + 1)
        for key, preds in (('preds_S', preds_S), ('preds_T', preds_T)):
            if not (
                len(preds) == 2
                and all(isinstance(part, (list, tuple)) for part in preds)
                and all(x.size(1) == channels for x in preds[1])
            ):
                raise ValueError(
                    f'LDLoss: {key} is not what a GFL-type head puts out, '
                    'class logits and box logits of 4 * (reg_max + 1) = '
                    f'{channels} channels per level, but {describe(preds)}. '
                    "Record source='bbox_head' of a head that predicts "
                    'distributions, without data_idx, and set reg_max to '
                    "the head's."
                )
        if describe(preds_S) != describe(preds_T):
            raise ValueError(
                f'LDLoss: preds_S has the shapes {describe(preds_S)} and '
                f'preds_T {describe(preds_T)}. Give teacher and student heads '
                'of the same classes and strides.'
            )
        if len(preds_S[0]) != self.regions.num_levels:
            raise ValueError(
                f'LDLoss: anchor_generator has {self.regions.num_levels} '
                f'strides, but the heads have {len(preds_S[0])} levels. Set '
                "it to the student's bbox_head.anchor_generator."
            )


def _at_least_float32(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _rows(x: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Values of shape (n, C) of a map with shape (N, C, H, W) in a region."""
    height, width = x.shape[-2:]
    rows = x.permute(0, 2, 3, 1)[region.view(-1, height, width)]
    return rows.to(_at_least_float32(rows))


def _divergence(
    student: torch.Tensor, teacher: torch.Tensor, tau: float
) -> torch.Tensor:
    """tau² times the mean over the classes of the divergence, by row."""
    return tau**2 * F.kl_div(
        F.log_softmax(student / tau, dim=1),
        F.softmax(teacher.detach() / tau, dim=1),
        reduction='none',
    ).mean(1)
