import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdvit_mm.models.losses.feature.fgd import FGDLoss
from kdvit_mm.models.utils.gt_masks import scale_mask
from tests.examples import Example, neck, samples
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    named,
    on_hard_maps,
    train_step,
)
from tests.tiny import detection_batch, gfl

WEIGHTS = dict(alpha_fgd=1e-3, beta_fgd=5e-4, gamma_fgd=5e-4, lambda_fgd=5e-6)
EXAMPLES = [
    Example(
        dict(type='FGDLoss', channels=16, map_covers=covers, **WEIGHTS),
        lambda: neck(data_samples=samples()),
        'neck',
    )
    for covers in ('img_shape', 'batch_input_shape')
]


def make_samples(boxes, sizes, padded=None):
    samples = []
    for box, size in zip(boxes, sizes, strict=True):
        meta = dict(img_shape=tuple(size))
        if padded is not None:
            meta['batch_input_shape'] = padded
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=box)
        samples.append(sample)
    return samples


def extents(sizes):
    return torch.tensor([(width, height) * 2 for height, width in sizes])


def make_mask(boxes, sizes, shape):
    return scale_mask(
        torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True),
        torch.arange(max(map(len, boxes)))
        < torch.tensor([[len(box)] for box in boxes]),
        extents(sizes),
        tuple(shape),
        torch.float64,
    )


def slow_masks(boxes, size, shape):
    """The masks of one image, box by box."""
    height, width = shape
    foreground = torch.zeros(height, width, dtype=torch.float64)
    for x1, y1, x2, y2 in boxes.tolist():
        left = math.floor(x1 / size[1] * width)
        right = math.ceil(x2 / size[1] * width)
        top = math.floor(y1 / size[0] * height)
        bottom = math.ceil(y2 / size[0] * height)
        value = 1 / ((bottom - top + 1) * (right - left + 1))
        for y in range(max(top, 0), min(bottom + 1, height)):
            for x in range(max(left, 0), min(right + 1, width)):
                foreground[y, x] = max(foreground[y, x], value)
    background = (foreground == 0).double()
    return foreground, background / max(background.sum(), 1)


def slow_parts(loss, student, teacher, boxes, sizes):
    """fg, bg, mask and rela, image by image."""
    parts = [0.0, 0.0, 0.0, 0.0]
    batch, channels, height, width = student.shape

    def attention(feature):
        cells = feature.abs().mean(0).flatten() / loss.tau
        across = feature.abs().flatten(1).mean(1) / loss.tau
        return (
            height * width * torch.softmax(cells, 0).view(height, width),
            channels * torch.softmax(across, 0),
        )

    def relation(feature, conv, add):
        weight = torch.softmax(conv(feature[None]).flatten(), 0)
        context = (feature.flatten(1) * weight).sum(1)
        return feature + add(context.view(1, -1, 1, 1))[0]

    for n in range(batch):
        masks = slow_masks(boxes[n], sizes[n], (height, width))
        cells_s, channels_s = attention(student[n])
        cells_t, channels_t = attention(teacher[n])
        square = (student[n] - teacher[n]) ** 2
        for i, mask in enumerate(masks):
            weight = mask * cells_t * channels_t.view(-1, 1, 1)
            parts[i] = parts[i] + (weight * square).sum() / batch
        mask = (cells_s - cells_t).abs().sum()
        mask = mask + (channels_s - channels_t).abs().sum()
        parts[2] = parts[2] + mask / batch
        rela = relation(
            student[n], loss.conv_mask_s, loss.channel_add_conv_s
        ) - relation(teacher[n], loss.conv_mask_t, loss.channel_add_conv_t)
        parts[3] = parts[3] + (rela**2).sum() / batch
    return parts


def randomized(loss):
    generator = torch.Generator().manual_seed(3)
    for parameter in loss.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return loss


@parametrize('fgd')
def test_golden(case):
    settings = case.settings
    channels = settings['teacher_channels']
    weights = {k: v for k, v in settings.items() if k.endswith('_fgd')}
    loss = FGDLoss(channels, tau=settings['temp'], **weights)
    if settings['student_channels'] != channels:
        # The loss has no such module: a connector does the same.
        loss.align = nn.Conv2d(settings['student_channels'], channels, 1)
    loss.double().load_state_dict(case.params)
    align = getattr(loss, 'align', nn.Identity())
    sizes = [size[:2] for size in settings['img_shape']]

    def call(inputs):
        samples = make_samples(named(inputs, 'gt_bboxes'), sizes)
        return loss(align(inputs['preds_S']), inputs['preds_T'], samples)

    for name, part in zip(WEIGHTS, ('fg', 'bg', 'mask', 'rela'), strict=True):
        vars(loss).update(dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0})
        torch.testing.assert_close(
            call(case.inputs).detach(), case.outputs[part], rtol=1e-10, atol=0
        )
    vars(loss).update(weights)
    assert_golden(call, case, loss)
    boxes = named(case.inputs, 'gt_bboxes')
    mask = make_mask(boxes, sizes, case.inputs['preds_S'].shape[2:])
    torch.testing.assert_close(
        mask, case.outputs['mask_fg'], rtol=1e-10, atol=0
    )


def random_boxes(generator, count, size):
    """Boxes of all sizes, at and beyond borders, points and sub-cells."""
    height, width = size
    limit = torch.tensor([width, height], dtype=torch.float64)
    centre = torch.rand(count, 2, generator=generator).double() * limit
    extent = 10 ** (torch.rand(count, 2, generator=generator).double() * 4 - 1)
    boxes = torch.cat((centre - extent / 2, centre + extent / 2), 1)
    inside = torch.min(boxes.clamp(min=0), limit.repeat(2))
    kept = torch.arange(count) % 3 == 0
    boxes = torch.where(kept[:, None], boxes, inside)
    boxes[::7, 2:] = boxes[::7, :2]
    boxes[::11] = boxes[::11].round()
    return boxes


@pytest.mark.parametrize('count', [0, 1, 51, 52, 53, 63, 104, 105, 130])
def test_masks_equal_a_loop(count):
    generator = torch.Generator().manual_seed(count)
    sizes = [(480, 640), (403, 591)]
    for shape in [(13, 21), (30, 40), (5, 1), (1, 1)]:
        boxes = [
            random_boxes(generator, count, sizes[0]),
            random_boxes(generator, count // 2, sizes[1]),
        ]
        mask = make_mask(boxes, sizes, shape)
        expected = torch.stack(
            [
                slow_masks(box, size, shape)[0]
                for box, size in zip(boxes, sizes, strict=True)
            ]
        )
        torch.testing.assert_close(mask, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ('counts', 'shape'),
    [
        ([9, 0], (9, 7)),
        ([0, 0], (4, 5)),
        ([0], (3, 2)),
        ([6], (5, 8)),
        ([3, 1], (1, 1)),
        ([2], (1, 1)),
        ([0], (1, 1)),
        ([4, 2], (1, 9)),
    ],
    ids=str,
)
def test_value_and_gradient_equal_a_loop(counts, shape):
    generator = torch.Generator().manual_seed(0)
    sizes = [(120, 90), (110, 128)][: len(counts)]
    boxes = [
        random_boxes(generator, count, size)
        for count, size in zip(counts, sizes, strict=True)
    ]
    loss = randomized(FGDLoss(6, **WEIGHTS, tau=0.7).double())
    student, teacher = torch.randn(
        2, len(counts), 6, *shape, generator=generator, dtype=torch.float64
    )
    student.requires_grad_()
    parts = slow_parts(loss, student, teacher, boxes, sizes)
    expected = sum(
        w * part for w, part in zip(WEIGHTS.values(), parts, strict=True)
    )
    inputs = [student, *loss.parameters()]
    wanted = torch.autograd.grad(expected, inputs)
    value = loss(student, teacher, make_samples(boxes, sizes))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for got, want in zip(
        torch.autograd.grad(value, inputs), wanted, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_official_initialisation():
    torch.manual_seed(0)
    loss = FGDLoss(256, **WEIGHTS)
    for conv in (loss.conv_mask_s, loss.conv_mask_t):
        assert conv.bias.item() == 0
        assert conv.weight.std().item() == pytest.approx(
            math.sqrt(2 / 256), rel=0.15
        )
    student, teacher = torch.randn(2, 1, 256, 4, 5)
    for name in ('alpha_fgd', 'beta_fgd', 'gamma_fgd'):
        setattr(loss, name, 0.0)
    loss.lambda_fgd = 1.0
    value = loss(
        student, teacher, make_samples([torch.zeros(0, 4)], [(32, 40)])
    )
    torch.testing.assert_close(
        value, (student - teacher).square().sum(), rtol=1e-5, atol=0
    )


def test_padding():
    """Both readings of the size that the map covers."""
    box = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    samples = make_samples([box], [(64, 64)], padded=(64, 128))
    student, teacher = torch.zeros(1, 2, 8, 16), torch.ones(1, 2, 8, 16)
    values = []
    for covers in ('img_shape', 'batch_input_shape'):
        loss = FGDLoss(2, 1.0, 0.0, 0.0, 0.0, map_covers=covers)
        values.append(loss(student, teacher, samples).item())
    # Attentions are 1 everywhere and 1 / area times the area is 1, a channel.
    assert values == pytest.approx([2.0, 2.0])
    stretched, right = (
        scale_mask(
            box[None], torch.ones(1, 1).bool(), extents([size]), (8, 16)
        )
        > 0
        for size in [(64, 64), (64, 128)]
    )
    assert stretched[0].any(0).sum() == 9
    assert right[0].any(0).sum() == 5
    student[..., 6:9] = 5.0
    loss.map_covers = 'img_shape'
    assert loss(student, teacher, samples).item() > 3
    loss.map_covers = 'batch_input_shape'
    assert loss(student, teacher, samples).item() == pytest.approx(2.0)


@on_hard_maps
@pytest.mark.parametrize('count', [0, 5])
def test_robust(dtype, layout, shape, count):
    student, teacher = hard_pair(dtype, layout, shape)
    generator = torch.Generator().manual_seed(0)
    boxes = [random_boxes(generator, count, (200, 333)).float()]
    boxes += [torch.zeros(0, 4)] * (len(student) - 1)
    samples = make_samples(boxes, [(200, 333)] * len(student))
    loss = randomized(FGDLoss(shape[1], **WEIGHTS))
    assert_robust(lambda s, t: loss(s, t, samples), student, teacher)
    loss(student, teacher, samples).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_takes_box_objects():
    box = torch.tensor([[3.0, 4.0, 30.0, 20.0]])
    student, teacher = torch.randn(2, 1, 4, 5, 6)
    loss = FGDLoss(4, **WEIGHTS)
    values = [
        loss(student, teacher, make_samples([boxes], [(40, 48)]))
        for boxes in (box, HorizontalBoxes(box))
    ]
    assert values[0] == values[1]


def test_errors():
    loss = FGDLoss(4, **WEIGHTS)
    feature = torch.zeros(1, 4, 5, 6)
    samples = make_samples([torch.zeros(0, 4)], [(40, 48)])
    with pytest.raises(
        ValueError,
        match=r'\(1, 2, 5, 6\) .*\(1, 4, 5, 6\).*ConvModuleConnector.*'
        r'in_channel=2, out_channel=4, act_cfg=None',
    ):
        loss(feature[:, :2], feature, samples)
    with pytest.raises(ValueError, match=r'\(1, 4, 5, 5\).*data_idx'):
        loss(feature[..., :5], feature, samples)
    with pytest.raises(ValueError, match=r'1 levels .* 2(.|\n)*data_idx of'):
        loss(feature, [feature] * 2, samples)
    with pytest.raises(ValueError, match='Set channels=2'):
        loss(feature[:, :2], feature[:, :2], samples)
    for absent in (None, [DetDataSample()]):
        with pytest.raises(
            ValueError, match=r"ModuleInputs', source=''.*data_idx=1"
        ):
            loss(feature, feature, absent)
    with pytest.raises(ValueError, match='2 data_samples for a batch of 1'):
        loss(feature, feature, samples * 2)
    with pytest.raises(ValueError, match=r'batch_input_shape.*img_shape'):
        FGDLoss(4, **WEIGHTS, map_covers='batch_input_shape')(
            feature, feature, samples
        )
    with pytest.raises(ValueError, match="map_covers is 'pad_shape'"):
        FGDLoss(4, **WEIGHTS, map_covers='pad_shape')


def make_distiller(mapped=True):
    loss = dict(type='kdvit_mm.FGDLoss', channels=16, **WEIGHTS)
    align = dict(
        type='ConvModuleConnector',
        in_channel=8,
        out_channel=16,
        act_cfg=None,
    )
    samples = dict(recorder='data_samples', from_student=True, data_idx=1)
    return dict(
        student_recorders=dict(
            fpn=dict(type='ModuleOutputs', source='neck'),
            data_samples=dict(type='ModuleInputs', source=''),
        ),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        connectors={f'align_{i}': align for i in range(5)},
        distill_losses={f'loss_fgd_{i}': loss for i in range(5)},
        loss_forward_mappings={
            f'loss_fgd_{i}': dict(
                preds_S=dict(
                    recorder='fpn',
                    from_student=True,
                    data_idx=i,
                    connector=f'align_{i}',
                ),
                preds_T=dict(recorder='fpn', from_student=False, data_idx=i),
                **(dict(data_samples=samples) if mapped else {}),
            )
            for i in range(5)
        },
    )


def make_batch():
    """Two images of different sizes, so that the map covers padding."""
    batch, other = detection_batch(1, 128), detection_batch(1, 90, seed=1)
    batch['inputs'] += [other['inputs'][0][:, :, :70]]
    other['data_samples'][0].set_metainfo(dict(img_shape=(90, 70)))
    batch['data_samples'] += other['data_samples']
    return batch


def test_from_config():
    algorithm, values = train_step(
        gfl(8, 8), gfl(8, 16), make_distiller(), make_batch()
    )
    distiller = algorithm.distiller
    samples = distiller.get_record('data_samples', True, data_idx=1)
    assert [sample.img_shape for sample in samples] == [(128, 128), (90, 70)]
    assert len(values) == 5
    assert all(value > 0 for value in values.values())
    # After the step, which moved both context blocks from their 0.
    for name, value in distiller.compute_distill_losses().items():
        loss = distiller.distill_losses[name]
        assert loss.channel_add_conv_s[-1].weight.abs().sum() > 0
        assert loss.channel_add_conv_t[-1].weight.abs().sum() > 0
        mapping = distiller.loss_forward_mappings[name]
        parts = slow_parts(
            loss,
            distiller.get_record(**mapping['preds_S']),
            distiller.get_record(**mapping['preds_T']),
            [sample.gt_instances.bboxes for sample in samples],
            [sample.img_shape for sample in samples],
        )
        expected = sum(
            w * part for w, part in zip(WEIGHTS.values(), parts, strict=True)
        )
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_from_config_without_boxes():
    with pytest.raises(
        ValueError, match=r'loss_fgd_0.*FGDLoss needs the ground-truth boxes'
    ):
        train_step(gfl(8, 8), gfl(8, 16), make_distiller(False), make_batch())


class Operations(TorchDispatchMode):
    """Counts what torch computes."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **kwargs or {})


def test_masks_take_no_loop_over_boxes():
    """Another box costs less than half an operation."""
    generator = torch.Generator().manual_seed(0)
    numbers = []
    for count in (20, 200):
        boxes = random_boxes(generator, count, (800, 1344))[None]
        is_box = torch.ones(1, count).bool()
        with Operations() as operations:
            scale_mask(boxes, is_box, extents([(800, 1344)]), (100, 168))
        numbers.append(operations.number)
    assert 0 < numbers[1] - numbers[0] < (200 - 20) / 2
