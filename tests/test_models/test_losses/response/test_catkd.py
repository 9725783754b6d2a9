import pytest
import torch
from torch import nn

from kdvit_mm.models.losses.response.catkd import CATKDLoss
from tests import tiny
from tests.golden import parametrize
from tests.loss_checks import (
    LAYOUTS,
    assert_golden,
    assert_robust,
    assert_same,
    classification_batch,
    on_class_maps,
    train_step,
)


def identity(classes):
    """A classifier for which a map is its own class map."""
    fc = nn.Linear(classes, classes, bias=False).double()
    fc.weight.data = torch.eye(classes, dtype=torch.float64)
    return fc


@parametrize('catkd')
def test_equals_official_code(case):
    settings = case.settings
    fc = identity(case.inputs['cam_s'].size(1))
    num_maps = None
    if settings.get('partial'):
        # The classes up to the k-th and the k-th itself, or below it.
        count = settings['cams']
        num_maps = -(count + 1) if settings['strategy'] else count - 1
    loss = CATKDLoss(
        size=settings['resolution'],
        normalise=settings['normalize'],
        binarise=settings.get('binarize', False),
        num_maps=num_maps,
        loss_weight=settings.get('weight', 1.0),
    )
    assert_golden(lambda x: loss(x['cam_s'], x['cam_t'], fc, fc), case)


def slow_catkd(maps_s, maps_t, fc_s, fc_t, size, normalise):
    """The paper's formula, place by place; sides are multiples of size."""

    def cams(maps, fc):
        rows = [
            [fc(maps[:, :, i, j]) for j in range(maps.size(3))]
            for i in range(maps.size(2))
        ]
        cells = []
        height, width = maps.size(2) // size, maps.size(3) // size
        for i in range(size):
            for j in range(size):
                places = [
                    rows[a][b]
                    for a in range(i * height, (i + 1) * height)
                    for b in range(j * width, (j + 1) * width)
                ]
                cells.append(sum(places) / len(places))
        cells = torch.stack(cells, -1)
        if normalise:
            cells = cells / cells.square().sum(-1, keepdim=True).sqrt()
        return cells

    return (cams(maps_s, fc_s) - cams(maps_t, fc_t)).square().mean()


@pytest.mark.parametrize('normalise', [True, False])
def test_equals_the_formula(normalise):
    """The two networks have other channels and sizes."""
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    teacher = torch.randn(2, 5, 2, 8, dtype=torch.float64)
    fc_s, fc_t = nn.Linear(3, 4).double(), nn.Linear(5, 4).double()
    loss = CATKDLoss(size=2, normalise=normalise, loss_weight=3.0)
    args = (fc_s, fc_t, 2, normalise)
    assert_same(
        lambda x: loss(x, teacher, fc_s, fc_t),
        lambda x: 3 * slow_catkd(x, teacher, *args),
        student,
    )
    values = (
        loss(student, teacher, fc_s, fc_t),
        3 * slow_catkd(student, teacher, *args),
    )
    ours, theirs = (torch.autograd.grad(x, fc_s.parameters()) for x in values)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)
    assert values[0].requires_grad
    assert torch.autograd.grad(
        loss(student, teacher, fc_s, fc_t), fc_t.weight, allow_unused=True
    ) == (None,)


def test_the_likeliest_and_the_least_likely_classes():
    """Of three classes that differ in the first alone."""
    teacher = torch.tensor([3.0, 1.0, 2.0]).view(1, 3, 1, 1)
    student = torch.tensor([4.0, 1.0, 2.0]).view(1, 3, 1, 1)
    fc = identity(3).float()
    for num_maps, expected in (
        (None, 1 / 3),
        (1, 1.0),
        (2, 1 / 2),
        (-1, 0.0),
        (-2, 0.0),
        (-3, 1 / 3),
    ):
        loss = CATKDLoss(size=1, normalise=False, num_maps=num_maps)
        value = loss(student, teacher, fc, fc)
        torch.testing.assert_close(value, torch.tensor(expected))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 5, 13, 7), (1, 3, 1, 1)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('options', [{}, dict(binarise=True, num_maps=2)])
def test_hard_input(options, dtype, shape, layout):
    """Maps after a ReLU, as networks have them, of a magnitude of 1e4."""
    generator = torch.Generator().manual_seed(0)
    pair = 1e4 * torch.rand(2, *shape, generator=generator)
    student, teacher = (LAYOUTS[layout](x.to(dtype)) for x in pair)
    torch.manual_seed(0)
    fc = nn.Linear(shape[1], 4)
    loss = CATKDLoss(**options)
    assert_robust(
        lambda s, t: loss(s, t, fc, fc), student.requires_grad_(), teacher
    )


def test_no_images():
    student = torch.zeros(0, 3, 4, 6, requires_grad=True)
    fc_s, fc_t = nn.Linear(3, 4), nn.Linear(5, 4)
    for options in ({}, dict(binarise=True, num_maps=2)):
        loss = CATKDLoss(**options)(
            student, torch.zeros(0, 5, 2, 8), fc_s, fc_t
        )
        loss.backward()
        assert loss.item() == 0


def test_errors():
    loss, maps = CATKDLoss(), torch.randn(2, 5, 4, 4)
    fc = nn.Linear(5, 3)
    with pytest.raises(
        ValueError,
        match=r"CATKDLoss needs the classifier.*source='head.fc'\) to "
        r"teacher_recorders and fc_T=dict\(recorder='fc', from_student=Fal",
    ):
        loss(maps, maps, fc)
    # What a ViT gives its head.
    with pytest.raises(
        ValueError,
        match=r"preds_S is \(2, 5\) and fc_S a Linear of 5 .*'neck.gap'.*in "
        'student_recorders.*without global average pooling.*KDLoss',
    ):
        loss(maps.mean((2, 3)), maps, fc, fc)
    # What VGG's head takes: all places.
    with pytest.raises(
        ValueError,
        match=r'preds_T is \(2, 5, 4, 4\) and fc_T a Linear of 80 features',
    ):
        loss(maps, maps, fc, nn.Linear(80, 3))
    with pytest.raises(ValueError, match=r'fc_S a Sequential\. Record'):
        loss(maps, maps, nn.Sequential(fc), fc)
    with pytest.raises(
        ValueError, match=r'\(2, 3, 2, 2\).*\(2, 4, 2, 2\).*classes differ'
    ):
        loss(maps, maps, fc, nn.Linear(5, 4))


def test_on_a_classifier():
    distiller = on_class_maps(dict(type='kdvit_mm.CATKDLoss', size=2))
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    records = [
        algorithm.distiller.get_record('maps', side, data_idx=0)
        for side in (True, False)
    ]
    students = algorithm.architecture, algorithm.teacher
    expected = slow_catkd(
        *records, *(model.head.fc for model in students), 2, True
    )
    torch.testing.assert_close(losses['distill.loss_kd'], expected)
    for model, maps in zip(students, records, strict=True):
        assert model.head.fc.in_features == maps.size(1)


def test_a_head_without_pooling_is_refused_at_build_time():
    distiller = on_class_maps(dict(type='kdvit_mm.CATKDLoss'))
    vit = tiny.resnet(4)
    vit.backbone = dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8
        ),
        img_size=32,
        patch_size=16,
    )
    vit.neck = None
    vit.head = dict(type='LinearClsHead', num_classes=10, in_channels=8)
    other_mean = tiny.resnet(4)
    other_mean.neck = dict(type='GeneralizedMeanPooling')
    for student in (vit, other_mean):
        with pytest.raises(
            ValueError,
            match=r'ImageClassifier has no global average pooling "neck.gap".*'
            'Distil its logits, such as with KDLoss',
        ):
            train_step(
                student, tiny.resnet(8), distiller, classification_batch()
            )
    distiller['student_recorders']['maps']['source'] = 'neck'
    with pytest.raises(ValueError, match=r'"neck".*Set source.*neck.gap'):
        train_step(
            tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
        )


def test_classifiers_of_other_classes():
    """No connector is suggested, though the channels differ too."""
    teacher = tiny.resnet(8)
    teacher.head.num_classes = 12
    with pytest.raises(
        ValueError, match=r'classes differ.*distil features instead'
    ) as info:
        train_step(
            tiny.resnet(4),
            teacher,
            on_class_maps(dict(type='kdvit_mm.CATKDLoss')),
            classification_batch(),
        )
    assert 'onnector' not in str(info.value)
