"""DisWOT: scores students that are not trained, for a teacher.

Dong, Li and Wei, *DisWOT: Student Architecture Search for Distillation
WithOut Training*, CVPR 2023, arXiv:2303.15678. Official code:
https://github.com/lliai/DisWOT-CVPR2023 (``distiller_zoo/SP.py`` and
``ICKD.py``).
"""

import copy
from typing import Any

import torch
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from kdvit_mm.models.losses.base import as_levels, in_full_precision
from kdvit_mm.models.losses.relation.sp import similarity_distance
from kdvit_mm.models.utils.config_mutator import ConfigMutator
from kdvit_mm.models.utils.explain import describe
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.models.utils.teacher_weights import load_teacher_checkpoint
from kdvit_mm.models.utils.unit import unit_vectors
from kdvit_mm.registry import MODELS, TASK_UTILS


@MODELS.register_module()
class DisWOT(BaseModel):
    r"""Scores architectures of a student by one batch, for a search.

    The score is minus the sum of :func:`relation_distance`, on the networks'
    last maps, and :func:`semantic_distance`, on the gradients of the task
    loss at their classifiers. It is the model of a run whose loop is
    :class:`~kdvit_mm.engine.loops.StudentSearchLoop`.

    Both networks are in train mode and, as in the paper, have random weights,
    which depend on the run's seed alone. Distances of one draw say little:
    they are averaged over ``draws``. Detectors are scored in the same way, on
    the total of their losses, which is not in the paper.

    Args:
        mutator (dict): Config of the :class:`ConfigMutator`, which has the
            students.
        teacher (dict): Config of the teacher.
        teacher_ckpt (str | None): File or URL of its checkpoint. Defaults to
            None, random weights.
        draws (int): How many times weights are drawn. Defaults to 1, as in
            the paper.
        maps (str): Name of the module whose output, or the last map of it, is
            the last map of a network. Defaults to 'backbone'.
        classifier (str): Name of the layer that gives the scores of the
            classes, such as ``'bbox_head.gfl_cls'``. Defaults to 'head.fc'.
        data_preprocessor (dict | None): That of the networks. Defaults to
            None, the teacher's own.

    Raises:
        ValueError: If a network has no such module.
    """

    def __init__(
        self,
        mutator: dict,
        teacher: dict,
        teacher_ckpt: str | None = None,
        draws: int = 1,
        maps: str = 'backbone',
        classifier: str = 'head.fc',
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__()
        if data_preprocessor is not None:
            # The network knows its type and scope.
            teacher = {'data_preprocessor': data_preprocessor, **teacher}
        self.maps = maps
        self.classifier = classifier
        self.draws = draws
        self.mutator: ConfigMutator = TASK_UTILS.build(mutator)
        self._seed = torch.initial_seed()
        self._teacher_cfg = teacher
        self._teacher_ckpt = teacher_ckpt
        self._batch: dict[str, Any] = {}
        self._theirs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.teacher = self._build_teacher(0)
        self.data_preprocessor = self.teacher.data_preprocessor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Is not defined: what is compared is :meth:`score`'s own matter."""
        raise NotImplementedError(
            'DisWOT is not trained. Set train_cfg.type to '
            '"kdvit_mm.StudentSearchLoop".'
        )

    def see(self, batch: Any) -> None:
        """Takes the batch that all are compared on.

        Args:
            batch (Any): Images and ground truth, as a data loader gives them;
                two images or more.
        """
        self._batch = self.data_preprocessor(batch, True)
        self._theirs = [
            self._look('teacher', self._build_teacher(draw))
            for draw in range(self.draws)
        ]

    @property
    def image_size(self) -> tuple[int, ...]:
        """tuple[int, ...]: Shape (C, H, W) of an image of the batch."""
        return tuple(self._batch['inputs'].shape[1:])

    def score(self, student: dict) -> dict[str, float]:
        """Scores a student; :meth:`see` has to have been called.

        Args:
            student (dict): Its config.

        Returns:
            dict[str, float]: ``score``, the larger the better, and the two
            distances, ``relation`` and ``semantic``.

        Raises:
            ValueError: If it has other classes than the teacher.
        """
        found = torch.zeros(2)
        for draw, (maps, gradient) in enumerate(self._theirs):
            ours = self._look('student', self.build(student, draw))
            found[0] += relation_distance(ours[0], maps).cpu()
            found[1] += semantic_distance(ours[1], gradient).cpu()
        relation, semantic = (found / self.draws).tolist()
        return {
            'score': -(relation + semantic),
            'relation': relation,
            'semantic': semantic,
        }

    def build(self, config: dict, draw: int = 0) -> BaseModel:
        """Builds a network with random weights.

        Args:
            config (dict): Its config.
            draw (int): Which weights. Defaults to 0.

        Returns:
            BaseModel: The network, on the device of the batch.
        """
        with isolated_rng(self._seed + draw):
            network = MODELS.build(in_own_scope(config))
            network.init_weights()
        if self._batch:
            network.to(self._batch['inputs'].device)
        return network

    def _build_teacher(self, draw: int) -> BaseModel:
        network = self.build(self._teacher_cfg, draw)
        if self._teacher_ckpt:
            load_teacher_checkpoint(network, self._teacher_ckpt)
        return network

    def _look(
        self, side: str, network: BaseModel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a network's last map and its classifier's gradient."""
        modules = dict(network.named_modules())
        for key, name in (
            ('maps', self.maps),
            ('classifier', self.classifier),
        ):
            if name not in modules:
                raise ValueError(
                    f'DisWOT: the {side} ({type(network).__name__}) has no '
                    f'module "{name}"; set {key} to one such as '
                    f'{[*modules][-3:]}.'
                )
        found: list[Any] = []
        handle = modules[self.maps].register_forward_hook(
            lambda module, inputs, output: found.append(output)
        )
        network.train()
        for module in modules.values():
            # Whatever norm_eval says: the statistics are those of nothing.
            if isinstance(module, _BatchNorm):
                module.train()
        with isolated_rng(self._seed), torch.enable_grad():
            losses = network(**copy.deepcopy(self._batch), mode='loss')
            (gradient,) = torch.autograd.grad(
                network.parse_losses(losses)[0],
                [modules[self.classifier].weight],
            )
        handle.remove()
        return as_levels(found[-1])[-1].detach(), gradient.flatten(1)


def relation_distance(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    r"""How differently both networks relate the images of a batch.

    :math:`\|G_S - G_T\|_F^2 / N^2`, G being :math:`F F^\top` of the
    flattened maps with each row divided by its length, as in
    :class:`~kdvit_mm.models.losses.SPLoss`.

    Args:
        student (torch.Tensor): The student's last map before the pooling,
            of shape (N, …).
        teacher (torch.Tensor): The teacher's, of shape (N, …), on the same
            images.

    Returns:
        torch.Tensor: A scalar, in at least float32.

    Raises:
        ValueError: If the batches differ or are of one image, whose
            distance is always 0.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f'relation_distance takes two images or more of both, the same, '
            f'but got {describe(student)} and {describe(teacher)}.'
        )
    return similarity_distance(*in_full_precision(student, teacher))


def semantic_distance(
    student: torch.Tensor, teacher: torch.Tensor
) -> torch.Tensor:
    r"""How differently the classifiers' gradients relate the classes.

    :math:`\|G_S - G_T\|_F^2 / C`, G being :math:`g g^\top` with each row
    divided by its length, a mean over images where there are several.

    Args:
        student (torch.Tensor): Gradient g of the cross-entropy with respect
            to the weight of the student's classifier, of shape (C, features),
            or channels C of maps, of shape (N, C, …).
        teacher (torch.Tensor): The teacher's, of as many classes.

    Returns:
        torch.Tensor: A scalar, in at least float32.

    Raises:
        ValueError: If classes, or batches, differ.
    """
    dim = 0 if student.dim() == 2 else 1
    if (
        student.dim() != teacher.dim()
        or student.shape[: dim + 1] != teacher.shape[: dim + 1]
    ):
        raise ValueError(
            'semantic_distance takes the gradients of two classifiers of as '
            f'many classes, (classes, features), but got {describe(student)} '
            f'and {describe(teacher)}.'
        )
    pair = in_full_precision(student, teacher)
    ours, theirs = (_relations(x.flatten(dim + 1)) for x in pair)
    return (ours - theirs).square().sum(-1).mean()


def _relations(rows: torch.Tensor) -> torch.Tensor:
    return unit_vectors(rows @ rows.mT, dim=-1)
