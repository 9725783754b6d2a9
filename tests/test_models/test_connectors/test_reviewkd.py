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
