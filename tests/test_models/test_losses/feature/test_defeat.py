import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from kdvit_mm.models.connectors.defeat import DeFeatAdapter
from kdvit_mm.models.losses.feature.defeat import DeFeatLoss, DeFeatRoILoss
from kdvit_mm.models.utils.gt_masks import level_mask
from kdvit_mm.registry import MODELS, RenamedKeyWarning
from tests.examples import Example, neck, pair, samples
from tests.golden import parametrize, read_cases
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    named,
    on_hard_maps,
    train_step,
)
from tests.test_models.test_losses.wrappers.test_shared_roi import (
    build,
    logits_by_hand,
    read_distiller,
    step,
)
from tests.test_tools.test_distill import build as build_pair  # noqa: F401
from tests.test_tools.test_distill import (
    data,  # noqa: F401
    write,  # noqa: F401
)
from tests.tiny import detection_batch, gfl

EXAMPLES = [
    Example(
        dict(
            type='DeFeatLoss',
            fg_weight=3,
            bg_weight=12,
            stride=[8, 16, 32, 64, 128],
        ),
        lambda: neck(data_samples=samples()),
        'neck',
    ),
    *(
        Example(
            dict(
                type='DeFeatRoILoss',
                fg_weight=2,
                bg_weight=2,
                background=background,
            ),
            lambda: pair(6, 4) | dict(labels=torch.zeros(6, dtype=torch.long)),
            'labelled logits',
        )
        for background in ('last_logit', 'largest_label')
    ),
]

STRIDES = (4, 8, 16, 32, 64)


def make_samples(boxes):
    samples = [DetDataSample() for _ in boxes]
    for sample, box in zip(samples, boxes, strict=True):
        sample.gt_instances = InstanceData(bboxes=box)
    return samples


def make_masks(boxes, strides, shapes):
    counts = torch.tensor([[len(box)] for box in boxes])
    boxes = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)
    is_box = torch.arange(boxes.size(1)) < counts
    return [
        level_mask(boxes, is_box, tuple(shape), stride, level, len(strides))
        for level, (stride, shape) in enumerate(
            zip(strides, shapes, strict=True)
        )
    ]


def slow_mask(boxes, shape, stride, level, num_levels):
    """The mask of one image, box by box."""
    height, width = shape
    mask = torch.zeros(shape, dtype=torch.float64)
    for x1, y1, x2, y2 in boxes.tolist():
        scale = math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1))
        own = math.floor(math.log2(scale / 56 + 1e-6))
        if min(max(own, 0), num_levels - 1) != level:
            continue
        left, right = max(int(x1 / stride), 0), min(int(x2 / stride), width)
        top, bottom = max(int(y1 / stride), 0), min(int(y2 / stride), height)
        if left == right or top == bottom:
            right, bottom = left + 1, top + 1
        for y in range(top, min(bottom, height)):
            for x in range(left, min(right, width)):
                mask[y, x] = 1
    return mask


def slow_parts(student, teacher, masks):
    """fg and bg of one level, element by element of the text."""
    masks = masks[:, None].double().expand_as(student)
    square = (student.double() - teacher.double()) ** 2
    return tuple(
        (square * part).sum() / max(1.0, 2 * part.sum().item())
        for part in (masks, 1 - masks)
    )


@parametrize('defeat')
def test_golden(case):
    part = case.settings['label'].split('/')[0]
    {'mask': golden_mask, 'neck': golden_neck, 'head': golden_head}[part](case)


def golden_mask(case):
    boxes = named(case.inputs, 'gt_bboxes')
    for dtype in (torch.float64, torch.float32):
        masks = make_masks(
            [box.to(dtype) for box in boxes],
            case.settings['strides'],
            case.settings['sizes'],
        )
        for mask, expected in zip(
            masks, named(case.outputs, 'mask'), strict=True
        ):
            assert torch.equal(mask.double(), expected.double())


def golden_neck(case):
    fg_weight = case.settings['hint_neck_w']
    bg_weight = 0
    if 'neck-decouple' in case.settings['type']:
        bg_weight = case.settings['hint_neck_back_w']
    # Named as the official adapters, '0.0.weight' and so on.
    adapters = nn.ModuleList(
        nn.ModuleList([DeFeatAdapter(student.size(1), teacher.size(1)).conv])
        for student, teacher in zip(
            named(case.inputs, 'student'),
            named(case.inputs, 'teacher'),
            strict=True,
        )
    )
    adapters.double().load_state_dict(case.params)

    def call(inputs):
        return sum(
            DeFeatLoss(
                fg_weight, bg_weight, STRIDES[level], level, len(adapters)
            ).decoupled_distance(adapters[level][0](student), teacher, mask)
            for level, (student, teacher, mask) in enumerate(
                zip(
                    named(inputs, 'student'),
                    named(inputs, 'teacher'),
                    named(inputs, 'mask'),
                    strict=True,
                )
            )
        )

    assert_golden(call, case, adapters)


def golden_head(case):
    arguments = ('cls_s', 'cls_t', 'labels')
    for background in ('largest_label', 'last_logit'):
        for part, weights in [('fg', (1, 0)), ('bg', (0, 1))]:
            loss = DeFeatRoILoss(*weights, case.settings['T'], background)
            value = loss(*(case.inputs[key] for key in arguments))
            torch.testing.assert_close(
                value, case.outputs[part], rtol=1e-10, atol=0
            )
        loss = DeFeatRoILoss(1, 1, case.settings['T'], background)
        assert_golden(
            lambda inputs, loss=loss: loss(*(inputs[k] for k in arguments)),
            case,
        )


def test_golden_from_boxes():
    """The neck's masks are those of the recorded boxes."""
    inputs = read_cases('defeat')['s0'].inputs
    samples = make_samples(named(inputs, 'gt_bboxes'))
    levels = zip(
        *(named(inputs, key) for key in ('student', 'teacher', 'mask')),
        strict=True,
    )
    for level, (student, teacher, mask) in enumerate(levels):
        loss = DeFeatLoss(3, 12, STRIDES[level], level, 3)
        torch.testing.assert_close(
            loss(student, teacher, samples),
            loss.decoupled_distance(student, teacher, mask),
        )


def random_boxes(generator, count):
    corner = torch.rand(count, 2, generator=generator).double() * 260 - 20
    extent = 10 ** (torch.rand(count, 2, generator=generator).double() * 3)
    boxes = torch.cat((corner, corner + extent - 1), 1)
    boxes[::4] = boxes[::4].clamp(0, 240)
    boxes[::5] = boxes[::5].round()
    return boxes


@pytest.mark.parametrize('count', [0, 1, 7, 60])
def test_masks_equal_a_loop(count):
    generator = torch.Generator().manual_seed(count)
    boxes = [random_boxes(generator, n) for n in (count, count // 3)]
    shapes = [(61, 60), (31, 30), (16, 15), (8, 8), (4, 1)]
    # Corners inside the map: Python's negative indices are not meant.
    boxes = [
        box[(box[:, :2] < 230).all(1) & (box[:, 2:] >= 0).all(1)]
        for box in boxes
    ]
    boxes = [torch.cat((b[:, :2].clamp(min=0), b[:, 2:]), 1) for b in boxes]
    for level, mask in enumerate(make_masks(boxes, STRIDES, shapes)):
        expected = [
            slow_mask(box, shapes[level], STRIDES[level], level, 5)
            for box in boxes
        ]
        assert torch.equal(mask, torch.stack(expected))


BOXES = [[10.0, 10, 200, 150], [0, 0, 30, 20]]


@pytest.mark.parametrize(
    ('boxes', 'shape'),
    [
        ([BOXES, []], (20, 30)),
        ([[], []], (6, 4)),
        ([[]], (1, 1)),
        ([BOXES], (1, 1)),
        ([BOXES], (7, 1)),
    ],
    ids=str,
)
def test_value_and_gradient_equal_a_loop(boxes, shape):
    generator = torch.Generator().manual_seed(0)
    samples = make_samples(
        [torch.tensor(image).view(-1, 4).double() for image in boxes]
    )
    student, teacher = torch.randn(
        2, len(boxes), 3, *shape, generator=generator, dtype=torch.float64
    )
    student.requires_grad_()
    for level in range(5):
        masks = torch.stack(
            [
                slow_mask(s.gt_instances.bboxes, shape, 8, level, 5)
                for s in samples
            ]
        )
        foreground, background = slow_parts(student, teacher, masks)
        expected = (3 * foreground + 12 * background) / 5
        value = DeFeatLoss(3, 12, 8, level, 5)(student, teacher, samples)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(
            *(torch.autograd.grad(v, student)[0] for v in (value, expected)),
            rtol=1e-10,
            atol=1e-16,
        )


@on_hard_maps
@pytest.mark.parametrize('level', [0, 1])
def test_robust(dtype, layout, shape, level):
    """A level with the box and one without any."""
    student, teacher = hard_pair(dtype, layout, shape)
    boxes = [torch.tensor([[3.0, 4, 100, 90]])]
    boxes += [torch.zeros(0, 4)] * (len(student) - 1)
    samples = make_samples(boxes)
    loss = DeFeatLoss(3, 12, 8, level, 2)
    assert_robust(lambda s, t: loss(s, t, samples), student, teacher)


@pytest.mark.parametrize(
    'labels', [[3, 3, 3], [0, 2, 1], [0, 3, 1], [3], [1], []]
)
def test_roi_loss_equals_a_loop(labels):
    """No object, no background, both, and no proposal at all."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, len(labels), 4, dtype=torch.float64)
    student.requires_grad_()
    sums, counts = [0.0, 0.0], [0, 0]
    for s, t, label in zip(student, teacher, labels, strict=True):
        p = torch.softmax(t / 2, 0)
        divergence = (p * (p.log() - torch.log_softmax(s / 2, 0))).sum()
        sums[label == 3] += divergence.item()
        counts[label == 3] += 1
    expected = 4 * sum(
        weight * total / max(count, 1)
        for weight, total, count in zip((2, 5), sums, counts, strict=True)
    )
    labels = torch.tensor(labels, dtype=torch.long)
    value = DeFeatRoILoss(2, 5, temperature=2)(student, teacher, labels)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    assert student.grad.isfinite().all()


def test_background_label():
    """Without background the released code takes an object's label for it."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4)
    labels = torch.tensor([0, 2, 1])
    both = F.kl_div(
        student.log_softmax(1), teacher.softmax(1), reduction='none'
    ).sum(1)
    value = DeFeatRoILoss(1, 0)(student, teacher, labels)
    assert value.item() == pytest.approx(both.mean().item(), rel=1e-5)
    released = DeFeatRoILoss(1, 0, background='largest_label')
    assert released(student, teacher, labels).item() == pytest.approx(
        both[[0, 2]].mean().item(), rel=1e-5
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_loss_is_robust(dtype):
    torch.manual_seed(0)
    student, teacher = ((torch.rand(2, 6, 4) * 2 - 1) * 1e4).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, 3, 3])
    loss = DeFeatRoILoss(2, 2)
    assert_robust(
        lambda s, t: loss(s, t, labels), student.requires_grad_(), teacher
    )


def test_old_key():
    with pytest.warns(RenamedKeyWarning, match='temperature is now tau'):
        loss = MODELS.build(
            dict(
                type='DeFeatRoILoss', fg_weight=2, bg_weight=2, temperature=3.0
            )
        )
    assert loss.tau == 3


def test_errors():
    loss = DeFeatLoss(3, 12, 8, 0, 5)
    feature = torch.zeros(1, 4, 5, 6)
    with pytest.raises(ValueError, match=r'\(1, 2, 5, 6\).*\(1, 4, 5, 6\)'):
        loss(feature[:, :2], feature, make_samples([torch.zeros(0, 4)]))
    with pytest.raises(
        ValueError, match=r"ModuleInputs', source=''.*data_idx=1"
    ):
        loss(feature, feature)
    with pytest.raises(ValueError, match='Set data_idx of preds_S in loss_f'):
        loss([feature] * 5, [feature] * 5, make_samples([torch.zeros(0, 4)]))
    with pytest.raises(ValueError, match='level 5 is not one of 5'):
        DeFeatLoss(3, 12, 8, 5, 5)
    with pytest.raises(ValueError, match=r'labels.*\(2,\).*\(3, 4\)'):
        DeFeatRoILoss(1, 1)(
            torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(2)
        )
    with pytest.raises(ValueError, match="background is 'first'"):
        DeFeatRoILoss(1, 1, background='first')


def make_distiller(in_channel=8, out_channel=16):
    fpn = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    return dict(
        student_recorders=dict(
            data_samples=dict(type='ModuleInputs', source=''), **fpn
        ),
        teacher_recorders=fpn,
        connectors={
            f'adapt_{i}': dict(
                type='kdvit_mm.DeFeatAdapter',
                in_channel=in_channel,
                out_channel=out_channel,
            )
            for i in range(5)
        },
        distill_losses={
            f'loss_defeat_{i}': dict(
                type='kdvit_mm.DeFeatLoss',
                fg_weight=3,
                bg_weight=12,
                stride=8 * 2**i,
                level=i,
                num_levels=5,
            )
            for i in range(5)
        },
        loss_forward_mappings={
            f'loss_defeat_{i}': dict(
                preds_S=dict(
                    recorder='fpn',
                    from_student=True,
                    data_idx=i,
                    connector=f'adapt_{i}',
                ),
                preds_T=dict(recorder='fpn', from_student=False, data_idx=i),
                data_samples=dict(
                    recorder='data_samples', from_student=True, data_idx=1
                ),
            )
            for i in range(5)
        },
    )


def test_from_config():
    algorithm, values = train_step(
        gfl(8, 8), gfl(8, 16), make_distiller(), detection_batch(2, 128)
    )
    assert len(values) == 5
    distiller = algorithm.distiller
    samples = distiller.get_record('data_samples', True, data_idx=1)
    for i, value in enumerate(distiller.compute_distill_losses().values()):
        mapping = distiller.loss_forward_mappings[f'loss_defeat_{i}']
        student = distiller.get_record(**mapping['preds_S'])
        teacher = distiller.get_record(**mapping['preds_T'])
        shape = tuple(student.shape[2:])
        masks = [
            slow_mask(sample.gt_instances.bboxes, shape, 8 * 2**i, i, 5)
            for sample in samples
        ]
        foreground, background = slow_parts(
            student, teacher, torch.stack(masks)
        )
        expected = (3 * foreground + 12 * background) / 5
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ('channels', 'fix'),
    [
        (dict(in_channel=4), 'Set in_channel=8'),
        (dict(out_channel=4), r'\(2, 4, 16, 16\)(.|\n)*\(2, 16, 16, 16\)'),
    ],
)
def test_adapter_of_other_channels(channels, fix):
    with pytest.raises(ValueError, match=fix):
        train_step(
            gfl(8, 8),
            gfl(8, 16),
            make_distiller(**channels),
            detection_batch(2, 128),
        )


def test_on_a_two_stage_detector():
    model = build(fpn=256, distiller=read_distiller('defeat_fpn_roi'))
    losses, batch = step(model)
    names = ['distill.loss_defeat', 'distill.loss_defeat_roi']
    assert names == [name for name in losses if name.startswith('distill')]
    assert all(losses[name] > 0 for name in names)
    distiller = model.distiller
    record = [
        distiller.get_record(name, True, data_idx=index)
        for name, index in (('head', 0), ('rois', 1), ('targets', 0))
    ]
    logits = logits_by_hand(model.teacher, batch['inputs'], record[1])
    torch.testing.assert_close(
        losses[names[-1]], DeFeatRoILoss(2, 2)(record[0], logits, record[2])
    )


def test_strides_and_connectors_are_of_the_pair(build_pair):  # noqa: F811
    cfg = build_pair('gfl', 'dino', 'defeat')
    loss = cfg.model.distiller.distill_losses.loss_defeat
    assert loss.num_levels == 4
    assert loss.loss.stride == [8, 16, 32, 64]
    assert (loss.connector.in_channel, loss.connector.out_channel) == (16, 256)
