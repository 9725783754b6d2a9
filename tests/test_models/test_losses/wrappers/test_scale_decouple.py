import pytest
import torch
from torch import nn

from kdvit_mm.models.losses.wrappers.scale_decouple import ScaleDecouple
from kdvit_mm.registry import MODELS
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
from tests.test_models.test_losses.response.test_nkd import slow_nkd
from tests.test_models.test_losses.test_dkd import slow_dkd
from tests.test_models.test_losses.wrappers.test_logit_standardise import (
    z_scores,
)


def linear(weight, bias):
    """A classifier that lets gradients reach the given tensors."""
    fc = nn.Linear(weight.size(1), weight.size(0), device='meta')
    del fc.weight, fc.bias
    fc.weight, fc.bias = weight, bias
    return fc


def golden_call(loss, case):
    def call(x):
        student, teacher = (
            linear(x[f'fc_{side}_w'], x[f'fc_{side}_b']) for side in 'st'
        )
        target = case.inputs['target'].long()
        return loss(x['feat_s'], x['feat_t'], student, teacher, target)

    return call


def scales(settings):
    return [int(scale) for scale in settings['M'].strip('[]').split(',')]


def base(settings):
    tau = settings['T']
    if 'dkd' in settings['loss']:
        weights = {key: settings[key] for key in ('alpha', 'beta')}
        return dict(type='DKDLoss', tau=tau, **weights)
    return dict(type='KDLoss', tau=tau)


@parametrize('sdd')
def test_equals_official_code(case):
    loss = ScaleDecouple(base(case.settings), scales(case.settings))
    assert_golden(golden_call(loss, case), case)


@parametrize('sdd_lskd')
def test_fusion_equals_released_code(case):
    loss = ScaleDecouple(
        dict(type='LogitStandardise', loss=base(case.settings)),
        scales(case.settings),
        released_rows=True,
    )
    assert_golden(golden_call(loss, case), case)


def slow_rows(maps, fc, scales):
    """Logits of each region of each image; sides are multiples of 4."""
    rows = []
    for image in maps:
        regions = []
        for scale in scales:
            height, width = image.size(1) // scale, image.size(2) // scale
            for i in range(scale):
                for j in range(scale):
                    part = image[
                        :,
                        i * height : (i + 1) * height,
                        j * width : (j + 1) * width,
                    ]
                    regions.append(fc(part.mean((1, 2))))
        rows.append(regions)
    return rows


def slow_sdd(maps_s, maps_t, fc_s, fc_t, labels, scales, row_loss, weight=2):
    """The paper's formula, region by region."""
    rows_s, rows_t = (
        slow_rows(maps_s, fc_s, scales),
        slow_rows(maps_t, fc_t, scales),
    )
    total, number = 0, 0
    for regions_s, regions_t, label in zip(
        rows_s, rows_t, labels, strict=True
    ):
        right = [z.argmax() == label for z in regions_t]
        for z_s, z_t, verdict in zip(regions_s, regions_t, right, strict=True):
            factor = 1 if verdict == right[0] else weight
            total = total + factor * row_loss(z_s, z_t, label)
            number += 1
    return total / number


def kd(z_s, z_t, label, tau=2.0):
    p_s, p_t = (z_s / tau).softmax(0), (z_t / tau).softmax(0)
    return tau**2 * (p_t * (p_t / p_s).log()).sum()


def dkd(z_s, z_t, label, tau=2.0):
    return slow_dkd(z_s[None], z_t[None], [label], 1.0, 8.0, tau)


def nkd(z_s, z_t, label):
    return slow_nkd(z_s[None], z_t[None], [label], 1.5, 2.0)


KD = dict(type='KDLoss', tau=2.0)
DKD = dict(type='DKDLoss', beta=8.0, tau=2.0)
FUSED = [
    (dict(type='LogitStandardise', loss=KD), kd),
    (dict(type='LogitStandardise', loss=DKD), dkd),
]


def pair(classes=4):
    torch.manual_seed(0)
    student = torch.randn(3, 5, 4, 8, dtype=torch.float64)
    teacher = torch.randn(3, 6, 8, 4, dtype=torch.float64)
    fc_s, fc_t = nn.Linear(5, classes).double(), nn.Linear(6, classes).double()
    return student, teacher, fc_s, fc_t, torch.tensor([0, 3, 1])


@pytest.mark.parametrize('scales', [(1,), (1, 2), (1, 2, 4), (1, 4)])
@pytest.mark.parametrize(
    ('inside', 'row_loss'),
    [
        (KD, kd),
        (DKD, dkd),
        (dict(type='NKDLoss', gamma=1.5, tau=2.0), nkd),
        (dict(type='mmrazor.KLDivergence', tau=2.0), kd),
        *FUSED,
    ],
    ids=['kd', 'dkd', 'nkd', 'mmrazor', 'kd+lskd', 'dkd+lskd'],
)
def test_equals_the_formula(inside, row_loss, scales):
    """With the pairing of regions and images that the papers mean."""
    student, teacher, fc_s, fc_t, labels = pair()
    loss = ScaleDecouple(dict(inside, loss_weight=3.0), scales)

    def row(z_s, z_t, label):
        if inside['type'] == 'LogitStandardise':
            z_s, z_t = z_scores(z_s), z_scores(z_t)
        return 3 * row_loss(z_s, z_t, label)

    assert_same(
        lambda x: loss(x, teacher, fc_s, fc_t, labels),
        lambda x: slow_sdd(x, teacher, fc_s, fc_t, labels, scales, row),
        student,
    )
    values = (
        loss(student, teacher, fc_s, fc_t, gt_labels=labels),
        slow_sdd(student, teacher, fc_s, fc_t, labels, scales, row),
    )
    ours, theirs = (torch.autograd.grad(x, fc_s.parameters()) for x in values)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


def test_the_whole_image_alone_is_the_loss_itself():
    student, teacher, fc_s, fc_t, labels = pair()
    logits = fc_s(student.mean((2, 3))), fc_t(teacher.mean((2, 3)))
    torch.testing.assert_close(
        ScaleDecouple(KD, [1])(student, teacher, fc_s, fc_t, labels),
        MODELS.build(dict(KD, type='kdvit_mm.KDLoss'))(*logits),
    )


def test_the_weight_of_complementary_regions():
    student, teacher, fc_s, fc_t, labels = pair()
    args = student, teacher, fc_s, fc_t, labels
    values = [
        ScaleDecouple(KD, complementary_weight=weight)(*args)
        for weight in (0.0, 1.0, 2.0)
    ]
    assert values[0] < values[1]
    torch.testing.assert_close(values[0] + values[2], 2 * values[1])


def test_the_released_rows_are_others():
    """Of one image they cannot be mistaken for those of another."""
    args = pair()
    for inside, _ in FUSED:
        right = ScaleDecouple(inside)(*args)
        released = ScaleDecouple(inside, released_rows=True)(*args)
        assert (right - released).abs() > 0.1 * right.abs()
    student, teacher, fc_s, fc_t, labels = args
    one = student[:1], teacher[:1], fc_s, fc_t, labels[:1]
    rows = 21
    torch.testing.assert_close(
        ScaleDecouple(FUSED[1][0], released_rows=True)(*one),
        rows * ScaleDecouple(FUSED[1][0])(*one),
    )


def test_a_loss_that_couples_rows_sees_each_group_alone():
    student, teacher, fc_s, fc_t, labels = pair()
    loss = ScaleDecouple(dict(type='DISTLoss'))(
        student, teacher, fc_s, fc_t, labels
    )
    rows_s, rows_t = (
        torch.stack([torch.stack(x) for x in slow_rows(maps, fc, (1, 2, 4))])
        for maps, fc in ((student, fc_s), (teacher, fc_t))
    )
    right = rows_t.argmax(2) == labels[:, None]
    consistent = right == right[:, :1]
    dist = MODELS.build(dict(type='kdvit_mm.DISTLoss'))
    expected = sum(
        weight * group.sum() * dist(rows_s[group], rows_t[group])
        for group, weight in ((consistent, 1), (~consistent, 2))
    )
    torch.testing.assert_close(loss, expected / consistent.numel())


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 5, 13, 7), (1, 3, 1, 1)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('inside', [KD, DKD, *(loss for loss, _ in FUSED)])
def test_hard_input(inside, dtype, shape, layout):
    """Maps after a ReLU, as networks have them, of a magnitude of 1e4."""
    generator = torch.Generator().manual_seed(0)
    maps = 1e4 * torch.rand(2, *shape, generator=generator)
    student, teacher = (LAYOUTS[layout](x.to(dtype)) for x in maps)
    torch.manual_seed(0)
    fc = nn.Linear(shape[1], 4)
    labels = torch.zeros(shape[0], dtype=torch.long)
    loss = ScaleDecouple(inside)
    assert_robust(
        lambda s, t: loss(s, t, fc, fc, labels),
        student.requires_grad_(),
        teacher,
    )


def test_no_images():
    student = torch.zeros(0, 5, 4, 8, requires_grad=True)
    *_, fc_s, fc_t, labels = pair()
    loss = ScaleDecouple(KD)(
        student, torch.zeros(0, 6, 8, 4), fc_s, fc_t, labels[:0]
    )
    loss.backward()
    assert loss.item() == 0


def test_errors():
    with pytest.raises(ValueError, match=r'scales=\[2, 4\].*whole image'):
        ScaleDecouple(KD, (2, 4))
    with pytest.raises(ValueError, match=r'scales=\[1, 3\]'):
        ScaleDecouple(KD, (1, 3))
    for inside in (
        dict(type='MLLDLoss'),
        dict(type='LogitStandardise', loss=dict(type='MLLDLoss')),
    ):
        with pytest.raises(ValueError, match='no weak and strong views'):
            ScaleDecouple(inside)
    loss, maps, fc = (
        ScaleDecouple(KD),
        torch.randn(2, 5, 4, 4),
        nn.Linear(5, 3),
    )
    labels = torch.tensor([0, 2])
    with pytest.raises(ValueError, match='ScaleDecouple needs the classifier'):
        loss(maps, maps)
    with pytest.raises(ValueError, match=r'preds_S is \(2, 5\).*PooledMap'):
        loss(maps.mean((2, 3)), maps, fc, fc, labels)
    with pytest.raises(ValueError, match=r'classes differ.*same classes, or'):
        loss(maps, maps, fc, nn.Linear(5, 4), labels)
    with pytest.raises(ValueError, match='ScaleDecouple needs the class of'):
        loss(maps, maps, fc, fc)
    with pytest.raises(ValueError, match='ScaleDecouple: labels from 0 to 3'):
        loss(maps, maps, fc, fc, torch.tensor([0, 3]))


@pytest.mark.parametrize(('inside', 'row_loss'), FUSED, ids=['kd', 'dkd'])
def test_on_a_classifier(inside, row_loss):
    distiller = on_class_maps(
        dict(type='kdvit_mm.ScaleDecouple', loss=inside), with_samples=True
    )
    algorithm, losses = train_step(
        tiny.resnet(4), tiny.resnet(8), distiller, classification_batch()
    )
    maps = [
        algorithm.distiller.get_record('maps', side, data_idx=0)
        for side in (True, False)
    ]
    models = algorithm.architecture, algorithm.teacher
    expected = slow_sdd(
        *maps,
        *(model.head.fc for model in models),
        [3, 0, 3, 9],
        (1, 2, 4),
        lambda z_s, z_t, label: row_loss(z_scores(z_s), z_scores(z_t), label),
    )
    torch.testing.assert_close(losses['distill.loss_kd'], expected)


def test_soft_labels_are_refused():
    student = tiny.resnet(4)
    student.data_preprocessor.batch_augments = dict(
        augments=dict(type='CutMix', alpha=1.0)
    )
    distiller = on_class_maps(
        dict(type='kdvit_mm.ScaleDecouple', loss=KD), with_samples=True
    )
    with pytest.raises(ValueError, match=r'ScaleDecouple: .*remove Mixup or'):
        train_step(student, tiny.resnet(8), distiller, classification_batch())
