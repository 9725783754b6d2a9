import numpy as np
import pytest
import pywt
import torch

from kdvit_mm.models.losses.feature.freekd import (
    FreeKDLoss,
    FrequencyPrompt,
    dice_overlap,
)
from kdvit_mm.models.utils.haar import haar_dwt
from kdvit_mm.registry import MODELS
from tests.examples import Example, neck
from tests.golden import parametrize
from tests.tiny import algorithm, detection_batch, gfl

EXAMPLES = [
    Example(dict(type='FreeKDLoss', channels=[16] * 5), neck, 'listed neck')
]

SIZES = [(25, 19), (6, 8), (2, 3), (1, 1)]


def _numbered(tensors, name, dtype):
    return [
        tensors[f'{name}.{i}'].to(dtype, copy=True)
        for i in range(sum(key.startswith(f'{name}.') for key in tensors))
    ]


def _maps(dtype=torch.float64, scale=1.0, batch=2):
    return [
        (scale * torch.randn(batch, 4, *size).clamp(-1, 1)).to(dtype)
        for size in SIZES
    ]


def _loss(tokens=3, dtype=torch.float64):
    loss = FreeKDLoss([4] * len(SIZES), tokens).to(dtype)
    for prompt in loss.mask_modules:
        torch.nn.init.normal_(prompt.mask_token)
    return loss


@parametrize('freekd', 'distil')
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
def test_golden(case, dtype, tolerance):
    def close(actual, expected):
        torch.testing.assert_close(
            actual, expected.to(dtype), rtol=tolerance, atol=tolerance / 100
        )

    student = _numbered(case.inputs, 'student', dtype)
    loss = FreeKDLoss(
        [case.settings['channels']] * len(student),
        case.settings['num_tokens'],
    ).to(dtype)
    tokens = {
        key: value
        for key, value in case.params.items()
        if key.endswith('mask_token')
    }
    loss.load_state_dict(tokens)
    out = loss(
        [x.requires_grad_() for x in student],
        _numbered(case.inputs, 'teacher', dtype),
    )
    close(out, case.outputs['loss'])
    out.backward()
    for x, expected in zip(
        student, _numbered(case.grads, 'student', dtype), strict=True
    ):
        close(x.grad, expected)
    for key, parameter in loss.named_parameters():
        close(parameter.grad, case.grads[f'param:{key}'])


@pytest.mark.parametrize('batch', [1, 2])
def test_equals_the_definition(batch):
    """With the products over tokens, and the masks of S and T apart."""
    loss = _loss()
    student, teacher = _maps(batch=batch), _maps(batch=batch)
    for x in student:
        x.requires_grad_()
    expected = 0
    for x, y, prompt in zip(student, teacher, loss.mask_modules, strict=True):
        details_S, details_T = haar_dwt(x, 3)[1], haar_dwt(y, 3)[1]
        for level in range(3):
            masks = torch.stack(
                [
                    torch.sigmoid(
                        (token[:, None, None] * details_T[level].sum(2)).sum(1)
                    )
                    for token in prompt.mask_token[level + 1]
                ],
                1,
            )[:, :, None, None]
            expected += (
                (
                    (masks * details_S[level][:, None])
                    - (masks * details_T[level][:, None])
                )
                .abs()
                .mean()
            )
    torch.testing.assert_close(loss(student, teacher), expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss(student, teacher), student),
        torch.autograd.grad(expected, student, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    loss.loss_weight = 0.5
    torch.testing.assert_close(loss(student, teacher), expected / 2)


def test_gradients():
    loss = _loss()
    student = [x.requires_grad_() for x in _maps()]
    teacher = [x.requires_grad_() for x in _maps()]
    loss(student, teacher).backward()
    assert all(x.grad.abs().sum() > 0 for x in student)
    assert all(x.grad is None for x in teacher)
    # As in the released code, the low band's tokens have no part.
    for prompt in loss.mask_modules:
        assert not prompt.mask_token.grad[0].any()
        assert prompt.mask_token.grad[1:].abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    loss = _loss(dtype=torch.float32)
    student = [
        x.contiguous(memory_format=torch.channels_last).requires_grad_()
        for x in _maps(dtype, 1e4)
    ]
    teacher = _maps(dtype, 1e4)
    with torch.autocast('cpu', torch.bfloat16):
        out = loss(student, teacher)
    out.backward()
    expected = _loss()
    expected.load_state_dict(loss.state_dict())
    torch.testing.assert_close(
        out.double(),
        expected([x.double() for x in student], [x.double() for x in teacher]),
        rtol=1e-5,
        atol=0,
    )
    assert all(x.grad.isfinite().all() for x in student)
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_dice_overlap():
    masks = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    pairs = [
        2 * (a * b).sum() / ((a * a).sum() + (b * b).sum())
        for image in masks
        for i, a in enumerate(image)
        for j, b in enumerate(image)
        if i != j
    ]
    torch.testing.assert_close(
        dice_overlap(masks), torch.stack(pairs).mean(), rtol=1e-9, atol=0
    )
    assert dice_overlap(masks[:, :1]) == 0
    assert dice_overlap(torch.zeros(2, 3, 4, 5)) == 0
    same = masks[:, :1].expand(-1, 3, -1, -1)
    assert dice_overlap(same).item() == pytest.approx(1)


def test_prompt_with_open_masks_sums_over_tokens():
    """Tokens of zero halve each band, so T of them give T/2 of the map."""
    prompt = FrequencyPrompt(4, 3).double()
    torch.nn.init.zeros_(prompt.mask_token)
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    out, overlap = prompt(x)
    assert out.shape == (2, 4, 8, 8)
    torch.testing.assert_close(out[..., :7, :], 1.5 * x)
    # Four bands, each of fully overlapping masks.
    assert overlap.item() == pytest.approx(4)


@pytest.mark.parametrize('size', SIZES)
def test_prompt_equals_the_definition(size):
    """With the products over tokens, and PyWavelets' transforms."""
    prompt = FrequencyPrompt(4, 3).double()
    tokens = torch.nn.init.normal_(prompt.mask_token).detach().numpy()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    out, overlap = prompt(x)

    low, *details = pywt.wavedec2(x.numpy(), 'haar', mode='zero', level=3)
    bands = [low[:, :, None]]
    bands += [np.stack(level, 2) for level in details[::-1]]
    expected = 0
    for index, band in enumerate(bands):
        logits = np.einsum('tc,nchw->nthw', tokens[index], band.sum(2))
        masks = 1 / (1 + np.exp(-logits))
        expected += dice_overlap(torch.from_numpy(masks)).item()
        masked = band[:, None] * masks[:, :, None, None]
        bands[index] = masked.sum(1)
    restored = pywt.waverec2(
        [bands[0][:, :, 0]]
        + [tuple(np.moveaxis(level, 2, 0)) for level in bands[:0:-1]],
        'haar',
        mode='zero',
    )
    np.testing.assert_allclose(out.detach().numpy(), restored, atol=1e-12)
    assert overlap.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_prompt_in_half_precision(dtype):
    prompt = FrequencyPrompt(4, 6)
    x = (1e4 * torch.randn(2, 4, 7, 5).clamp(-1, 1)).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        out, overlap = prompt(x.requires_grad_())
    (out.sum() + overlap).backward()
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert prompt.mask_token.grad.isfinite().all()


def test_takes_prompts_from_a_checkpoint(tmp_path):
    path = str(tmp_path / 'prompts.pth')
    source = _loss(2)
    state = {f'distiller.{k}': v for k, v in source.state_dict().items()}
    state['mask_modules.0.prob.0.weight'] = torch.zeros(4, 4, 3, 3)
    torch.save(dict(state_dict=state, meta={}), path)
    loss = FreeKDLoss([4] * 4, 2, prompt_ckpt=path)
    for a, b in zip(loss.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(a, b.float())
        assert not a.requires_grad
    with pytest.raises(ValueError, match=r'prompt_ckpt.*\(4, 2, 4\)'):
        FreeKDLoss([4] * 4, 6, prompt_ckpt=path)


def test_says_what_does_not_fit():
    loss = FreeKDLoss([4, 4])
    maps = [torch.zeros(2, 4, 4, 4)] * 2
    with pytest.raises(ValueError, match=r'channels=\[4, 4\].*one entry'):
        loss(maps[:1], maps[:1])
    with pytest.raises(ValueError, match=r'channels=\[4, 4\].*5, 4, 4'):
        loss(maps, [torch.zeros(2, 5, 4, 4)] * 2)
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\).*Connector'):
        loss([torch.zeros(2, 3, 4, 4)] * 2, maps)


def test_distiller():
    record = dict(fpn=dict(type='ModuleOutputs', source='neck'))
    distiller = dict(
        type='ConfigurableDistiller',
        student_recorders=record,
        teacher_recorders=record,
        distill_losses=dict(
            loss_freekd=dict(type='FreeKDLoss', channels=[16] * 5)
        ),
        loss_forward_mappings=dict(
            loss_freekd=dict(
                preds_S=dict(recorder='fpn', from_student=True),
                preds_T=dict(recorder='fpn', from_student=False),
            )
        ),
    )
    model = MODELS.build(
        algorithm(architecture=gfl(8), distiller=distiller)
    ).train()
    data = model.data_preprocessor(detection_batch(), True)
    loss = model(**data, mode='loss')['distill.loss_freekd']
    with torch.no_grad():
        expected = model.distiller.distill_losses['loss_freekd'](
            model.student.neck(model.student.backbone(data['inputs'])),
            model.teacher.neck(model.teacher.backbone(data['inputs'])),
        )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.student.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0
