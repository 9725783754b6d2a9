import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData

from kdvit_mm.models.losses.response.ld import LDLoss, _divergence
from kdvit_mm.registry import MODELS
from tests.examples import Example, maps, samples
from tests.golden import parametrize
from tests.tiny import algorithm, detection_batch, gfl

SIZES = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
BINS = 4 * 17
CLASSES = 6


def of_heads():
    student, teacher = (
        [[maps(2, channels, n, n) for n in (8, 4)] for channels in (3, BINS)]
        for _ in range(2)
    )
    return dict(preds_S=student, preds_T=teacher, data_samples=samples())


EXAMPLES = [
    Example(
        dict(
            type='LDLoss',
            anchor_generator=dict(
                gfl().bbox_head.anchor_generator, strides=[8, 16]
            ),
            assigner=gfl().train_cfg.assigner,
        ),
        of_heads,
    )
]


def _loss(strides=(8, 16, 32, 64, 128), scale=8, topk=9, **options):
    return LDLoss(
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=scale,
            scales_per_octave=1,
            strides=list(strides),
        ),
        assigner=dict(type='ATSSAssigner', topk=topk),
        **options,
    )


def _head(sizes=SIZES, batch=2, dtype=torch.float32, scale=1.0):
    return tuple(
        [
            (scale * torch.randn(batch, channels, *size).clamp(-1, 1)).to(
                dtype
            )
            for size in sizes
        ]
        for channels in (CLASSES, BINS)
    )


def _samples(boxes, pad_shape=(128, 160)):
    from mmdet.structures import DetDataSample

    samples = []
    for image in boxes:
        sample = DetDataSample(
            metainfo=dict(img_shape=pad_shape, pad_shape=pad_shape, img_id=0)
        )
        bboxes = torch.tensor(image, dtype=torch.float32).view(-1, 4)
        sample.gt_instances = InstanceData(
            bboxes=bboxes, labels=torch.zeros(len(bboxes), dtype=torch.long)
        )
        samples.append(sample)
    return samples


BOXES = [
    [[10.0, 12, 70, 90], [60, 30, 150, 120], [3, 3, 9, 8], [0, 0, 160, 128]],
    [[30.5, 20, 61, 52]],
]


@parametrize('ld', 'kl')
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
def test_golden_divergence(case, dtype, tolerance):
    s = case.settings
    student = case.inputs['pred'].to(dtype, copy=True).requires_grad_()
    loss = _divergence(student, case.inputs['soft_label'].to(dtype), s['T'])
    loss = s['loss_weight'] * loss * case.inputs.get('weight', 1)
    if s['reduction'] != 'none':
        number = s.get('avg_factor') or len(loss)
        loss = loss.sum() / (number if s['reduction'] == 'mean' else 1)
    loss.sum().backward()
    torch.testing.assert_close(
        loss.to(dtype),
        case.outputs['loss'].to(dtype).view_as(loss),
        rtol=tolerance,
        atol=tolerance / 100,
    )
    torch.testing.assert_close(
        student.grad,
        case.grads['pred'].to(dtype),
        rtol=tolerance,
        atol=tolerance / 100,
    )


@parametrize('ld', 'vlr')
def test_golden_valuable_region(case):
    anchors, boxes = case.inputs['anchors'], case.inputs['gt_bboxes']
    loss = _loss(topk=case.settings['topk'])
    region = loss.regions.valuable_region(
        anchors,
        case.settings['num_level_bboxes'],
        boxes,
        torch.zeros(len(boxes), dtype=torch.long),
        torch.ones(1, len(anchors), dtype=torch.bool),
    )
    torch.testing.assert_close(
        region[0], case.outputs['vlr_region'], rtol=1e-10, atol=0
    )


@parametrize('ld', 'head')
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
def test_golden_level(case, dtype, tolerance):
    s, given = case.settings, case.inputs
    # The configs of mmdet's heads weight all positive anchors alike.
    assert (given['label_weights'] == 1).all()
    loss = _loss(
        ld_weight=s['w_ld'],
        vlr_weight=s['w_ld'],
        kd_weight=s['w_kd'],
        tau=s['T_ld'],
        kd_tau=s['T_kd'],
    )
    cls_S = given['cls_score'].to(dtype, copy=True).requires_grad_()
    box_S = given['bbox_pred'].to(dtype, copy=True).requires_grad_()
    terms = loss.level_terms(
        cls_S,
        box_S,
        given['soft_label'].to(dtype),
        given['soft_targets'].to(dtype),
        given['labels'] < s['num_classes'],
        given['vlr_region'].to(dtype),
    )
    # The imitation's gradient goes to the features alone.
    sum(terms.values()).backward()
    for actual, expected in [
        (terms['ld'], case.outputs['loss_ld']),
        (terms['vlr'], case.outputs['loss_ld_vlr']),
        (terms['kd'], case.outputs['loss_kd']),
        (cls_S.grad, case.grads['cls_score']),
        (box_S.grad, case.grads['bbox_pred']),
    ]:
        torch.testing.assert_close(
            actual,
            expected.to(dtype),
            rtol=tolerance,
            atol=tolerance / 100,
        )


def _iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area_a + area_b - shared), shared / area_a


def _region_by_loop(anchors, areas, boxes, inside, true_diou, topk, gamma):
    """From the paper, one anchor and one box at a time."""
    weights = [0.0] * len(anchors)
    for box in boxes:

        def apart(anchor, box=box):
            x = (anchor[0] + anchor[2] - box[0] - box[2]) / 2
            y = (anchor[1] + anchor[3] - box[1] - box[3]) / 2
            return x * x + y * y

        values, start = [], 0
        for area in areas:
            level = [i for i in range(start, start + area) if inside[i]]
            level.sort(key=lambda i: apart(anchors[i]))
            values += [_iou(anchors[i], box)[0] for i in level[:topk]]
            start += area
        values = torch.tensor(values, dtype=torch.float64)
        threshold = (values.mean() + values.std()).item()
        for i, anchor in enumerate(anchors):
            width = max(anchor[2], box[2]) - min(anchor[0], box[0])
            height = max(anchor[3], box[3]) - min(anchor[1], box[1])
            iou, of_anchor = _iou(anchor, box)
            closeness = iou if true_diou else of_anchor
            closeness -= apart(anchor) / (width**2 + height**2)
            if inside[i] and gamma * threshold <= closeness < threshold:
                weights[i] = max(weights[i], iou)
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize('true_diou', [False, True])
def test_valuable_region_equals_a_loop(true_diou):
    torch.manual_seed(0)
    loss = _loss(gamma=0.3, true_diou=true_diou)
    levels = [
        anchors.double() + 0.01 * torch.rand(len(anchors), 1)
        for anchors in loss.regions.anchors.grid_priors(SIZES, device='cpu')
    ]
    anchors, areas = torch.cat(levels), [len(level) for level in levels]
    corner = torch.rand(7, 2, dtype=torch.float64) * 100
    boxes = torch.cat(
        [corner, corner + 8 + 60 * torch.rand(7, 2, dtype=torch.float64)], 1
    )
    image = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    inside = torch.rand(3, len(anchors)) > 0.2
    region = loss.regions.valuable_region(anchors, areas, boxes, image, inside)
    for index in range(3):
        expected = _region_by_loop(
            anchors.tolist(),
            areas,
            boxes[image == index].tolist(),
            inside[index].tolist(),
            true_diou,
            9,
            0.3,
        )
        assert (index == 1) == (not expected.any())
        torch.testing.assert_close(region[index], expected, rtol=1e-10, atol=0)


def test_positives_are_those_of_the_head():
    """Also where an image is smaller than the batch."""
    head = MODELS.build(
        gfl()['bbox_head']
        | dict(
            _scope_='mmdet',
            train_cfg=gfl()['train_cfg'],
        )
    )
    samples = _samples(BOXES)
    samples[1].set_metainfo(dict(pad_shape=(64, 96), img_shape=(60, 90)))
    loss = _loss(scale=2)
    positive, valuable = loss.regions(SIZES, samples, 2, 'cpu')
    metas = [sample.metainfo for sample in samples]
    targets = head.get_targets(
        *head.get_anchors(SIZES, metas, 'cpu'),
        [sample.gt_instances for sample in samples],
        metas,
    )
    labels = torch.cat(targets[1], 1)
    assert torch.equal(positive, labels < 10)
    assert positive.any(1).all()
    # Row 8 and column 12 of P3 are beyond the second image.
    outside = torch.ones(SIZES[0], dtype=torch.bool)
    outside[:8, :12] = False
    assert not valuable[1, : 16 * 20][outside.flatten()].any()
    assert valuable[1].any()


@pytest.mark.parametrize(
    ('boxes', 'sizes'),
    [
        (BOXES, SIZES),
        ([[], BOXES[0]], [*SIZES[:4], (1, 1)]),
        ([BOXES[0]], SIZES),
    ],
    ids=['two images', 'one without boxes', 'one image'],
)
def test_equals_the_terms_of_each_anchor(boxes, sizes):
    torch.manual_seed(0)
    loss = _loss(
        ld_weight=0.25, vlr_weight=0.5, kd_weight=10.0, tau=10, kd_tau=2
    )
    batch, samples = len(boxes), _samples(boxes)
    student, teacher = (_head(sizes, batch, torch.float64) for _ in range(2))
    leaves = [x.requires_grad_() for part in student for x in part]
    positive, valuable = loss.regions(sizes, samples, batch, 'cpu')
    expected, start = sum(0 * x.sum() for x in leaves), 0
    for level, (height, width) in enumerate(sizes):
        classes, number = 0, 0
        for image in range(batch):
            for place in range(height * width):
                y, x = divmod(place, width)
                index = start + place
                logits = [
                    part[level][image, :, y, x]
                    for part in (*student, *teacher)
                ]
                edges = sum(
                    _kl(logits[1][i : i + 17], logits[3][i : i + 17], 10) / 17
                    for i in range(0, BINS, 17)
                )
                if positive[image, index]:
                    score = logits[0].sigmoid().max().detach()
                    expected += 0.25 * score * edges / 4
                    classes += _kl(logits[0], logits[2], 2) / CLASSES
                    number += 1
                expected += 0.5 * valuable[image, index] * edges / 16
        expected += 10 * classes / max(number, 1)
        start += height * width
    value = loss(student, teacher, samples)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    slopes = (torch.autograd.grad(x, leaves) for x in (value, expected))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def _kl(student, teacher, tau):
    p, q = ((x / tau).softmax(0) for x in (teacher, student))
    return tau**2 * (p * (p.log() - q.log())).sum()


def test_sums_the_weighted_terms():
    student, teacher, samples = _head(), _head(), _samples(BOXES)
    off = dict(ld_weight=0, vlr_weight=0, kd_weight=0)
    alone = [
        _loss(**off | {key: weight})(student, teacher, samples)
        for key, weight in zip(off, (0.25, 0.5, 10.0), strict=True)
    ]
    assert all(loss > 0 for loss in alone)
    weights = dict(ld_weight=0.25, vlr_weight=0.5, kd_weight=10.0)
    torch.testing.assert_close(
        _loss(**weights)(student, teacher, samples), sum(alone)
    )
    assert _loss(**off)(student, teacher, samples) == 0


@pytest.mark.parametrize('boxes', [[[], []], [[], BOXES[0]], [BOXES[1], []]])
def test_images_without_boxes(boxes):
    student = _head()
    for x in (*student[0], *student[1]):
        x.requires_grad_()
    loss = _loss()(student, _head(), _samples(boxes))
    loss.backward()
    assert (loss > 0) == any(boxes)
    for x in (*student[0], *student[1]):
        assert x.grad.isfinite().all()
        for image in range(2):
            assert boxes[image] or not x.grad[image].any()


def test_one_image_and_a_single_anchor():
    """No threshold can be had from a single candidate."""
    student, teacher = (_head([(1, 1)], batch=1) for _ in range(2))
    student[1][0].requires_grad_()
    loss = _loss([8])(student, teacher, _samples([[[1.0, 2, 7, 6]]]))
    loss.backward()
    assert loss == 0
    assert not student[1][0].grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    student, teacher = (_head(dtype=dtype, scale=1e4) for _ in range(2))
    student = tuple(
        [
            x.contiguous(memory_format=torch.channels_last).requires_grad_()
            for x in part
        ]
        for part in student
    )
    with torch.autocast('cpu', torch.bfloat16):
        out = _loss()(student, teacher, _samples(BOXES))
    out.backward()
    assert out.dtype == torch.float32
    double = [[[x.double() for x in y] for y in z] for z in (student, teacher)]
    expected = _loss()(*double, _samples(BOXES))
    assert expected.dtype == torch.float64
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=0)
    assert all(x.grad.isfinite().all() for part in student for x in part)
    assert student[1][0].grad.any()


def test_teacher_gets_no_gradient():
    teacher = _head()
    teacher[1][0].requires_grad_()
    student = _head()
    student[1][0].requires_grad_()
    _loss()(student, teacher, _samples(BOXES)).backward()
    assert teacher[1][0].grad is None


def test_says_what_does_not_fit():
    good, samples = _head(), _samples(BOXES)
    with pytest.raises(ValueError, match="type='ModuleInputs', source=''"):
        _loss()(good, good)
    centreness = (*good, good[0])
    with pytest.raises(ValueError, match='preds_T is not what a GFL-type'):
        _loss()(good, centreness, samples)
    retina = (good[0], [x[:, :36] for x in good[1]])
    with pytest.raises(ValueError, match=r'68 channels.*36.*reg_max'):
        _loss()(retina, good, samples)
    other = ([x[:, :3] for x in good[0]], good[1])
    with pytest.raises(ValueError, match=r'2, 6, 16, 20.*2, 3, 16, 20'):
        _loss()(good, other, samples)
    with pytest.raises(ValueError, match='anchor_generator has 3 strides'):
        _loss([8, 16, 32])(good, good, samples)
    with pytest.raises(ValueError, match='1 data_samples for a batch of 2'):
        _loss()(good, good, samples[:1])
    with pytest.raises(ValueError, match=r'anchor_generator makes \[3\]'):
        LDLoss(
            dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=4,
                scales_per_octave=3,
                strides=[8],
            ),
            dict(type='ATSSAssigner', topk=9),
        )


def test_distiller():
    student = gfl(8)
    head = dict(head=dict(type='ModuleOutputs', source='bbox_head'))
    distiller = dict(
        type='ConfigurableDistiller',
        student_recorders=head
        | dict(data_samples=dict(type='ModuleInputs', source='')),
        teacher_recorders=head,
        distill_losses=dict(
            loss_ld=dict(
                type='LDLoss',
                anchor_generator=student['bbox_head']['anchor_generator'],
                assigner=student['train_cfg']['assigner'],
                ld_weight=0.25,
                vlr_weight=0,
                kd_weight=10,
            )
        ),
        loss_forward_mappings=dict(
            loss_ld=dict(
                preds_S=dict(recorder='head', from_student=True),
                preds_T=dict(recorder='head', from_student=False),
                data_samples=dict(
                    recorder='data_samples', from_student=True, data_idx=1
                ),
            )
        ),
    )
    torch.manual_seed(0)
    model = MODELS.build(
        algorithm(architecture=student, distiller=distiller)
    ).train()
    data = model.data_preprocessor(detection_batch(), True)
    loss = model(**data, mode='loss')['distill.loss_ld']

    # With the targets that mmdet's head computes for itself.
    samples = data['data_samples']
    metas = [sample.metainfo for sample in samples]
    student = model.student
    with torch.no_grad():
        out_S = student.bbox_head(student.extract_feat(data['inputs']))
        out_T = model.teacher.bbox_head(
            model.teacher.extract_feat(data['inputs'])
        )
        sizes = [x.shape[-2:] for x in out_S[0]]
        labels = student.bbox_head.get_targets(
            *student.bbox_head.get_anchors(sizes, metas, 'cpu'),
            [sample.gt_instances for sample in samples],
            metas,
        )[1]
    expected = 0
    for cls_S, box_S, cls_T, box_T, label in zip(
        *out_S, *out_T, labels, strict=True
    ):
        rows = [
            x.permute(0, 2, 3, 1).flatten(0, 2)[label.flatten() < 10]
            for x in (cls_S, box_S, cls_T, box_T)
        ]
        if len(rows[0]):
            score = rows[0].sigmoid().max(1).values[:, None]
            edges = [x.reshape(-1, 4, 17) / 10 for x in rows[1::2]]
            kl = F.kl_div(
                edges[0].log_softmax(2), edges[1].softmax(2), reduction='none'
            )
            expected += 0.25 * 100 * (score * kl.mean(2)).sum() / 4
            kl = F.kl_div(
                (rows[0] / 2).log_softmax(1),
                (rows[2] / 2).softmax(1),
                reduction='none',
            )
            expected += 10 * 4 * kl.mean(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.bbox_head.gfl_reg.weight.grad.abs().sum() > 0
    assert student.bbox_head.gfl_cls.weight.grad.abs().sum() > 0
