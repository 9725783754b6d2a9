import pytest
import torch

from kdvit_mm.models.connectors.reviewkd import ReviewKDConnector
from kdvit_mm.models.losses.feature.hcl import HCLLoss
from kdvit_mm.registry import MODELS
from tests.golden import parametrize
from tests.tiny import algorithm, detection_batch, gfl

SIZES = [(25, 34), (13, 17), (7, 9), (4, 5), (1, 1)]


def _maps(channels, sizes=SIZES, batch=2, **options):
    return [torch.randn(batch, channels, *s, **options) for s in sizes]


def _of_case(case, dtype):
    """Connector and maps of a case; the parameters are named as official."""
    s = case.settings
    student = _numbered(case.inputs, 'student')
    if s['label'].startswith('det'):
        levels = len(student)
        connector = ReviewKDConnector(
            [s['in_channels']] * levels,
            [s['out_channels']] * levels,
            s['mid_channel'],
        )
        prefix = ''
    else:
        # Listed deep to shallow, and as a bare list of fusions.
        connector = ReviewKDConnector(
            s['in_channels'],
            s['out_channels'],
            s['mid'],
            out_sizes=s['out_shapes'][::-1],
        )
        prefix = 'abfs.'
    state = {prefix + key: value for key, value in case.params.items()}
    connector.to(dtype).load_state_dict(state)
    return connector.train(s['bn'] == 'train'), prefix


def _numbered(tensors, name, dtype=torch.float64):
    return [
        tensors[f'{name}.{i}'].to(dtype, copy=True)
        for i in range(sum(key.startswith(f'{name}.') for key in tensors))
    ]


@parametrize('reviewkd', 'det', 'cls')
@pytest.mark.parametrize(
    ('dtype', 'rtol', 'atol'),
    [(torch.float64, 1e-10, 1e-12), (torch.float32, 1e-4, 1e-5)],
    ids=['float64', 'float32'],
)
def test_golden(case, dtype, rtol, atol):
    def close(actual, expected):
        torch.testing.assert_close(
            actual.to(dtype), expected.to(dtype), rtol=rtol, atol=atol
        )

    connector, prefix = _of_case(case, dtype)
    student = [
        x.requires_grad_() for x in _numbered(case.inputs, 'student', dtype)
    ]
    teacher = _numbered(case.inputs, 'teacher', dtype)
    features = connector(tuple(student))
    for out, expected in zip(
        features, _numbered(case.outputs, 'feat'), strict=True
    ):
        close(out, expected)
    loss = HCLLoss()(features, teacher)
    close(loss, case.outputs['loss'])
    loss.backward()
    for x, expected in zip(
        student, _numbered(case.grads, 'student'), strict=True
    ):
        close(x.grad, expected)
    grads = {n: p.grad for n, p in connector.named_parameters()}
    params = [key for key in case.grads if key.startswith('param:')]
    assert len(params) == len(grads)
    for key in params:
        close(grads[prefix + key[len('param:') :]], case.grads[key])
    buffers = dict(connector.named_buffers())
    for key, expected in case.after.items():
        close(buffers[prefix + key], expected)


def _slow_norm(x, norm, training):
    """Batch norm, channel by channel."""
    out = []
    for c in range(x.size(1)):
        mean, variance = norm.running_mean[c], norm.running_var[c]
        if training:
            mean = x[:, c].mean()
            variance = ((x[:, c] - mean) ** 2).mean()
        value = (x[:, c] - mean) / (variance + norm.eps).sqrt()
        out.append(value * norm.weight[c] + norm.bias[c])
    return torch.stack(out, 1)


def _slow_conv(x, weight):
    """A convolution with a border of zeros, position by position."""
    radius = weight.size(2) // 2
    padded = torch.nn.functional.pad(x, [radius] * 4)
    height, width = x.shape[2:]
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            window = padded[:, None, :, i : i + 2 * radius + 1]
            window = window[..., j : j + 2 * radius + 1]
            row.append((window * weight).sum((2, 3, 4)))
        rows.append(torch.stack(row, 2))
    return torch.stack(rows, 2)


def _slow_review(connector, maps, training):
    """The paper's fusion, deep to shallow."""
    deeper, results = None, []
    for abf, x in zip(connector.abfs, maps[::-1], strict=True):
        x = _slow_norm(
            _slow_conv(x, abf.conv1[0].weight), abf.conv1[1], training
        )
        if deeper is not None:
            height, width = x.shape[2:]
            rows = [i * deeper.size(2) // height for i in range(height)]
            columns = [i * deeper.size(3) // width for i in range(width)]
            deeper = deeper[:, :, rows][..., columns]
            conv = abf.att_conv[0]
            both = torch.cat((x, deeper), 1)
            attention = 1 / (
                1
                + (
                    -_slow_conv(both, conv.weight) - conv.bias[:, None, None]
                ).exp()
            )
            x = x * attention[:, :1] + deeper * attention[:, 1:]
        deeper = x
        results.append(
            _slow_norm(
                _slow_conv(x, abf.conv2[0].weight), abf.conv2[1], training
            )
        )
    return results[::-1]


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_formula(batch, training):
    """Odd sizes, and a 1 × 1 map where batch norm takes it."""
    torch.manual_seed(0)
    sizes = [(7, 5), (4, 3), (2, 2), (1, 1)]
    sizes = sizes[: None if batch > 1 or not training else 3]
    connector = ReviewKDConnector([3] * len(sizes), [4] * len(sizes), 5)
    connector.double().train(training)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    for name, buffer in connector.named_buffers():
        if 'running' in name:
            torch.nn.init.uniform_(buffer, 0.5, 2)
    maps = _maps(3, sizes, batch, dtype=torch.float64)
    expected = _slow_review(connector, maps, training)
    inputs = [x.requires_grad_() for x in maps] + [*connector.parameters()]
    for ours, theirs in zip(connector(maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # A random direction, for a mean square of a norm's output is constant.
    direction = [torch.randn_like(x) for x in expected]
    ours, theirs = (
        torch.autograd.grad(
            sum((x * d).sum() for x, d in zip(out, direction, strict=True)),
            inputs,
        )
        for out in (connector(maps), _slow_review(connector, maps, training))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_one_image_with_a_1x1_map_uses_the_running_statistics():
    connector = ReviewKDConnector([3], [4], 5).double()
    x = torch.randn(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    (out,) = connector([x])
    out.sum().backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(connector.eval()([x])[0], out)


def test_deeper_levels_reach_shallower_ones_only():
    connector = ReviewKDConnector([3] * 3, [4] * 3, 5).eval()
    maps = _maps(3, SIZES[:3])
    before = connector(maps)
    after = connector([maps[0] + 1, maps[1], maps[2]])
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    after = connector([maps[0], maps[1], maps[2] + 1])
    assert not any(map(torch.equal, before, after))


def test_resizes_non_square_maps():
    connector = ReviewKDConnector([3] * 2, [4] * 2, 5, [(9, 6), 3])
    shapes = [tuple(x.shape) for x in connector(_maps(3, [(4, 5), (2, 3)]))]
    assert shapes == [(2, 4, 9, 6), (2, 4, 3, 3)]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('training', [True, False])
def test_half_inputs(dtype, training):
    torch.manual_seed(0)
    connector = ReviewKDConnector([6] * 5, [7] * 5, 8).train(training)
    maps = [
        x.to(dtype)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for x in (1e4 * y.clamp(-1, 1) for y in _maps(6))
    ]
    loss = HCLLoss()(connector(maps), _maps(7, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in maps)
    assert all(p.grad.isfinite().all() for p in connector.parameters())


def test_autocast():
    torch.manual_seed(0)
    connector = ReviewKDConnector([6] * 5, [7] * 5, 8)
    maps = [(1e4 * x).requires_grad_() for x in _maps(6)]
    expected = HCLLoss()(connector(maps), teacher := _maps(7))
    with torch.autocast('cpu', torch.bfloat16):
        loss = HCLLoss()(connector(maps), teacher)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    assert all(x.grad.isfinite().all() for x in maps)


def test_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r'in_channels.*\[3, 3\], \[4\]'):
        ReviewKDConnector([3, 3], [4], 5)
    connector = ReviewKDConnector([3, 3], [4, 4], 5)
    with pytest.raises(ValueError, match=r'without data_idx.*in_channels'):
        connector(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r'in_channels=\[3, 3\].*2, 6, 4'):
        connector(_maps(6, [(4, 4), (2, 2)]))


def test_distiller():
    record = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    distiller = dict(
        type='ConfigurableDistiller',
        student_recorders=record,
        teacher_recorders=record,
        connectors=dict(
            abf=dict(
                type='ReviewKDConnector',
                in_channels=[8] * 5,
                out_channels=[16] * 5,
                mid_channels=12,
            )
        ),
        distill_losses=dict(loss_hcl=dict(type='HCLLoss', loss_weight=1.2)),
        loss_forward_mappings=dict(
            loss_hcl=dict(
                preds_S=dict(
                    recorder='fpn', from_student=True, connector='abf'
                ),
                preds_T=dict(recorder='fpn', from_student=False),
            )
        ),
    )
    model = MODELS.build(
        algorithm(architecture=gfl(8, 8), distiller=distiller)
    ).train()
    data = model.data_preprocessor(detection_batch(), True)
    loss = model(**data, mode='loss')['distill.loss_hcl']
    with torch.no_grad():
        student = model.student.neck(model.student.backbone(data['inputs']))
        teacher = model.teacher.neck(model.teacher.backbone(data['inputs']))
        abf = model.distiller.connectors['abf']
        expected = 1.2 * HCLLoss()(abf(student), teacher)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.student.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in abf.parameters())


CLASSIFIERS = {
    'mobilenetv1_resnet50': dict(
        channels=[128, 256, 512, 1024, 1024],
        sizes=[56, 28, 14, 7, 1],
        out_channels=[256, 512, 1024, 2048, 2048],
        out_sizes=None,
        mid_channels=256,
    ),
    'mobilenetv2_resnet50': dict(
        channels=[12, 16, 48, 160, 1280],
        sizes=[16, 8, 4, 2, 1],
        out_channels=[256, 512, 1024, 2048, 2048],
        out_sizes=[32, 16, 8, 4, 1],
        mid_channels=512,
    ),
    'mobilenetv2_vgg13': dict(
        channels=[12, 16, 48, 160, 1280],
        sizes=[16, 8, 4, 2, 1],
        out_channels=[128, 256, 512, 512, 512],
        out_sizes=[16, 8, 4, 4, 1],
        mid_channels=512,
    ),
}


@pytest.mark.parametrize('name', CLASSIFIERS)
@pytest.mark.parametrize('batch', [1, 2])
def test_classifiers_of_the_paper(name, batch):
    """A quarter of their channels, at their sizes, the pooled level too."""
    case = CLASSIFIERS[name]
    torch.manual_seed(0)
    connector = ReviewKDConnector(
        [c // 4 for c in case['channels']],
        [c // 4 for c in case['out_channels']],
        case['mid_channels'] // 4,
        case['out_sizes'],
    )
    student, teacher = (
        [
            torch.randn(batch, c // 4, size, size, requires_grad=True)
            for c, size in zip(channels, sizes, strict=True)
        ]
        for channels, sizes in (
            (case['channels'], case['sizes']),
            (case['out_channels'], case['out_sizes'] or case['sizes']),
        )
    )
    features = connector(student)
    assert [x.shape for x in features] == [x.shape for x in teacher]
    HCLLoss()(features, teacher).backward()
    # What is fused reaches all levels; a norm of two values only their sign.
    for x in student:
        assert x.grad.isfinite().all() and x.grad.any()


def test_warm_up_by_epoch():
    from kdvit_mm.engine.hooks.distill_schedule_hook import linear

    for epoch in range(50):
        official = linear(epoch, 0, 20, start_factor=0)
        assert official == pytest.approx(min(1, epoch / 20))
        mdistiller = linear(epoch, 0, 19, start_factor=0.05)
        assert mdistiller == pytest.approx(min(1, (epoch + 1) / 20))


def test_on_a_mobilenet():
    """MobileNetV2 of 32 px under a ResNet-18, whose maps are larger."""
    from tests import tiny
    from tests.loss_checks import train_step
    from tests.test_models.test_losses.test_dkd import classification_batch

    student, teacher = tiny.resnet(4), tiny.resnet(8)
    student.backbone = dict(type='MobileNetV2', widen_factor=0.25)
    student.head.in_channels = 1280
    gap = [dict(source='neck.gap')]
    parts = [
        [dict(source=f'backbone.layer{i}') for i in (2, 3, 5, 7)] + gap,
        [
            dict(source=f'backbone.layer{i}.1.relu', inputs=True, record_idx=1)
            for i in (1, 2, 3, 4)
        ]
        + gap,
    ]
    recorders = [
        dict(stages=dict(type='kdvit_mm.ModuleTuple', parts=part))
        for part in parts
    ]
    distiller = dict(
        student_recorders=recorders[0],
        teacher_recorders=recorders[1],
        connectors=dict(
            review=dict(
                type='kdvit_mm.ReviewKDConnector',
                in_channels=[8, 8, 24, 80, 1280],
                out_channels=[8, 16, 32, 64, 64],
                mid_channels=64,
                out_sizes=[32, 16, 8, 4, 1],
            )
        ),
        distill_losses=dict(loss_reviewkd=dict(type='kdvit_mm.HCLLoss')),
        loss_forward_mappings=dict(
            loss_reviewkd=dict(
                preds_S=dict(
                    recorder='stages', from_student=True, connector='review'
                ),
                preds_T=dict(recorder='stages', from_student=False),
            )
        ),
    )
    algorithm, losses = train_step(
        student, teacher, distiller, classification_batch()
    )
    maps = algorithm.distiller.get_record('stages', True)
    assert [x.size(-1) for x in maps] == [8, 4, 2, 1, 1]
    assert losses['distill.loss_reviewkd'] > 0
