"""Every distill loss of mmrazor: finite, and its gradient arrives."""

import pytest
import torch
from mmengine.structures import BaseDataElement
from mmrazor.models import losses
from mmrazor.registry import MODELS

import kdvit_mm  # noqa: F401

N, CLASSES = 4, 6
FBKD_PARTS = (
    (N, 1, 5, 5), (N, 8, 1, 1), (N, 8), (N, 1, 5, 5), (N, 8, 1, 1),
    (N, 8, 5, 5),
)  # fmt: skip
IMAGE_IDS = [BaseDataElement() for _ in range(N)]
for number, sample in enumerate(IMAGE_IDS):
    sample.set_data({'sample_idx': torch.tensor(number)})
LABELS = torch.tensor([0, 3, 5, 3])
FEATURES, LOGITS, VECTORS = (N, 8, 5, 5), (N, CLASSES), (N, 8)
# Loss -> its arguments, the shape of its predictions, its further inputs.
LOSSES = {
    'ABLoss': ({}, FEATURES, ()),
    'ATLoss': ({}, FEATURES, ()),
    'AngleWiseRKD': ({}, VECTORS, ()),
    'CRDLoss': (
        {'neg_num': 3, 'sample_n': N, 'dim_out': 8},
        VECTORS,
        (IMAGE_IDS,),
    ),
    'ChannelWiseDivergence': ({}, FEATURES, ()),
    'DISTLoss': ({}, LOGITS, ()),
    'DKDLoss': ({}, LOGITS, (LABELS,)),
    'DistanceWiseRKD': ({}, VECTORS, ()),
    'FBKDLoss': ({}, None, ()),
    'FTLoss': ({}, FEATURES, ()),
    'KDSoftCELoss': ({'tau': 2.0}, LOGITS, ()),
    'KLDivergence': ({}, LOGITS, ()),
    'L1Loss': ({}, FEATURES, ()),
    'L2Loss': ({}, FEATURES, ()),
    'MGDLoss': ({}, FEATURES, ()),
    'OFDLoss': ({}, FEATURES, ()),
    'PKDLoss': ({}, FEATURES, ()),
    'WSLD': ({'num_classes': CLASSES}, LOGITS, (LABELS,)),
}
# What looks at the teacher's answer to generated images only.
OF_THE_TEACHER = {
    'ActivationLoss': FEATURES,
    'InformationEntropyLoss': LOGITS,
    'OnehotLikeLoss': LOGITS,
}
TASK_LOSSES = {'CrossEntropyLoss'}


def test_no_loss_is_left_out():
    tested = LOSSES.keys() | OF_THE_TEACHER.keys() | TASK_LOSSES
    assert tested == set(losses.__all__)


@pytest.mark.parametrize('name', LOSSES)
def test_loss_is_finite_and_reaches_the_student(name):
    torch.manual_seed(0)
    arguments, shape, inputs = LOSSES[name]
    loss = MODELS.build({'type': f'mmrazor.{name}', **arguments})
    if shape is None:
        student = [torch.randn(s, requires_grad=True) for s in FBKD_PARTS]
        teacher = [torch.randn(s) for s in FBKD_PARTS]
        teacher.pop(2)
        value = loss(student, teacher)
    else:
        student = [torch.randn(shape, requires_grad=True)]
        value = loss(student[0], torch.randn(shape), *inputs)
    assert value.numel() == 1 and value.isfinite().all()
    value.sum().backward()
    gradients = [t.grad for t in student if t.grad is not None]
    assert len(gradients) == (4 if name == 'FBKDLoss' else 1)
    for gradient in gradients:
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize('name', OF_THE_TEACHER)
def test_data_free_loss_reaches_the_generator_without_a_group(name):
    torch.manual_seed(0)
    preds = torch.randn(OF_THE_TEACHER[name], requires_grad=True)
    value = MODELS.build({'type': f'mmrazor.{name}'})(preds)
    assert value.numel() == 1 and value.isfinite().all()
    value.sum().backward()
    assert preds.grad.isfinite().all() and preds.grad.abs().sum() > 0


def test_kd_soft_ce_is_the_cross_entropy_of_the_softened_teacher():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, N, CLASSES)
    loss = MODELS.build({'type': 'mmrazor.KDSoftCELoss', 'tau': 2.0})
    soft = (teacher / 2).softmax(1)
    expected = -(soft * (student / 2).log_softmax(1)).sum(1).mean() * 4
    assert torch.allclose(loss(student, teacher), expected)
