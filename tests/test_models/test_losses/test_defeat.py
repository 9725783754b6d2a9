# ruff: noqa: C408  (configs read best as dict())
import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from kdvit_mm.models.connectors.defeat import DeFeatAdapter
from kdvit_mm.models.losses.defeat import DeFeatLoss, DeFeatRoILoss
from kdvit_mm.models.utils.gt_masks import level_mask
from tests.golden import parametrize, read_cases
from tests.tiny_pair import distill

STRIDES = (4, 8, 16, 32, 64)
PRECISIONS = pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)


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


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(
        actual.double(),
        expected,
        rtol=tolerance,
        atol=tolerance * expected.abs().max().item(),
    )


@PRECISIONS
@parametrize('defeat')
def test_golden(case, dtype, tolerance):
    part = case.settings['label'].split('/')[0]
    {'mask': golden_mask, 'neck': golden_neck, 'head': golden_head}[part](
        case, dtype, tolerance
    )


def golden_mask(case, dtype, tolerance):
    boxes = [case.inputs[f'gt_bboxes.{i}'].to(dtype) for i in range(2)]
    masks = make_masks(boxes, case.settings['strides'], case.settings['sizes'])
    for i, mask in enumerate(masks):
        assert torch.equal(mask.double(), case.outputs[f'mask.{i}'].double())


def golden_neck(case, dtype, tolerance):
    fg_weight = case.settings['hint_neck_w']
    bg_weight = case.settings.get('hint_neck_back_w', 0)
    if 'decouple' not in case.settings['type']:
        bg_weight = 0
    total, leaves = 0, []
    for i in range(5):
        student = case.inputs[f'student.{i}'].to(dtype, copy=True)
        teacher = case.inputs[f'teacher.{i}'].to(dtype)
        leaves.append((f'student.{i}', student.requires_grad_()))
        adapter = DeFeatAdapter(student.size(1), teacher.size(1)).to(dtype)
        adapter.load_state_dict(
            {
                f'conv.{name}': case.params[f'{i}.0.{name}']
                for name in ('weight', 'bias')
            }
        )
        for name, parameter in adapter.conv.named_parameters():
            leaves.append((f'param:{i}.0.{name}', parameter))
        loss = DeFeatLoss(fg_weight, bg_weight, STRIDES[i], i, 5)
        total = total + loss.decoupled_distance(
            adapter(student), teacher, case.inputs[f'mask.{i}']
        )
    total.backward()
    assert_close(total, case.outputs['loss'], tolerance)
    for name, leaf in leaves:
        assert_close(leaf.grad, case.grads[name], tolerance)


def golden_head(case, dtype, tolerance):
    student = case.inputs['cls_s'].to(dtype, copy=True).requires_grad_()
    teacher, labels = case.inputs['cls_t'].to(dtype), case.inputs['labels']
    temperature = case.settings['T']
    for background in ('largest_label', 'last_logit'):
        for name, weights in [
            ('fg', (1, 0)),
            ('bg', (0, 1)),
            ('loss', (1, 1)),
        ]:
            loss = DeFeatRoILoss(*weights, temperature, background)
            value = loss(student, teacher, labels)
            assert_close(value, case.outputs[name], tolerance)
        (gradient,) = torch.autograd.grad(value, student)
        assert_close(gradient, case.grads['cls_s'], tolerance)


def test_golden_from_boxes():
    """The neck's masks are those of the recorded boxes."""
    cases = read_cases('defeat')
    if not {'c0', 'c1'} <= cases.keys():
        pytest.skip('defeat.npz is not beside the checkout')
    boxes, case = cases['c0'].inputs, cases['c1']
    samples = make_samples([boxes['gt_bboxes.0'], boxes['gt_bboxes.1']])
    for i in range(5):
        mask = case.inputs[f'mask.{i}']
        student = case.inputs[f'student.{i}']
        teacher = case.inputs[f'teacher.{i}']
        loss = DeFeatLoss(3, 12, STRIDES[i], i, 5)
        assert_close(
            loss(student, teacher, samples),
            loss.decoupled_distance(student, teacher, mask),
            1e-12,
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


def test_value_and_gradient_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 10, 200, 150], [0, 0, 30, 20]]).double()
    samples = make_samples([boxes, torch.zeros(0, 4).double()])
    student, teacher = torch.randn(
        2, 2, 3, 20, 30, generator=generator, dtype=torch.float64
    )
    student.requires_grad_()
    for level in range(5):
        masks = torch.stack(
            [
                slow_mask(s.gt_instances.bboxes, (20, 30), 8, level, 5)
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


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [(13, 21), (1, 1)])
def test_half_precision(dtype, autocast, shape):
    torch.manual_seed(0)
    boxes = [torch.tensor([[3.0, 4, 100, 90]]), torch.zeros(0, 4)]
    samples = make_samples(boxes)
    student, teacher = ((torch.rand(2, 2, 8, *shape) * 2 - 1) * 1e4).to(dtype)
    student = student.contiguous(memory_format=torch.channels_last)
    student.requires_grad_()
    for level in range(2):
        loss = DeFeatLoss(3, 12, 8, level, 2)
        expected = loss(student.double(), teacher.double(), samples)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            value = loss(student, teacher, samples)
        value.backward()
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert student.grad.isfinite().all()


@pytest.mark.parametrize('labels', [[3, 3, 3], [0, 2, 1], [0, 3, 1], []])
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
def test_roi_half_precision(dtype):
    torch.manual_seed(0)
    student, teacher = ((torch.rand(2, 6, 4) * 2 - 1) * 1e4).to(dtype)
    student.requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 3, 3])
    with torch.autocast('cpu', torch.bfloat16):
        value = DeFeatRoILoss(2, 2)(student, teacher, labels)
    value.backward()
    expected = DeFeatRoILoss(2, 2)(student.double(), teacher.double(), labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad.isfinite().all()


def test_errors():
    loss = DeFeatLoss(3, 12, 8, 0, 5)
    feature = torch.zeros(1, 4, 5, 6)
    with pytest.raises(ValueError, match=r'\(1, 2, 5, 6\).*\(1, 4, 5, 6\)'):
        loss(feature[:, :2], feature, make_samples([torch.zeros(0, 4)]))
    with pytest.raises(
        ValueError, match=r"ModuleInputs', source=''.*data_idx=1"
    ):
        loss(feature, feature)
    with pytest.raises(ValueError, match='level 5 is not one of 5'):
        DeFeatLoss(3, 12, 8, 5, 5)
    with pytest.raises(ValueError, match=r'labels.*\(2,\).*\(3, 4\)'):
        DeFeatRoILoss(1, 1)(
            torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(2)
        )
    with pytest.raises(ValueError, match="background is 'first'"):
        DeFeatRoILoss(1, 1, background='first')


def test_from_config():
    losses = {
        f'loss_defeat_{i}': dict(
            type='kdvit_mm.DeFeatLoss',
            fg_weight=3,
            bg_weight=12,
            stride=8 * 2**i,
            level=i,
            num_levels=5,
        )
        for i in range(5)
    }
    connectors = {
        f'connector_{i}': dict(
            type='kdvit_mm.DeFeatAdapter', in_channel=8, out_channel=16
        )
        for i in range(5)
    }
    model, values = distill(losses, connectors)
    distiller = model.distiller
    samples = distiller.get_record('data_samples', True, data_idx=1)
    for i in range(5):
        record = dict(recorder='fpn', data_idx=i)
        student = distiller.get_record(
            from_student=True, connector=f'connector_{i}', **record
        )
        teacher = distiller.get_record(from_student=False, **record)
        masks = [
            slow_mask(
                sample.gt_instances.bboxes, student.shape[2:], 8 * 2**i, i, 5
            )
            for sample in samples
        ]
        foreground, background = slow_parts(
            student, teacher, torch.stack(masks)
        )
        expected = (3 * foreground + 12 * background) / 5
        assert values[f'distill.loss_defeat_{i}'].item() == pytest.approx(
            expected.item(), rel=1e-5
        )
    sum(v for k, v in values.items() if 'distill' in k).backward()
    gradient = model.architecture.backbone.conv1.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
