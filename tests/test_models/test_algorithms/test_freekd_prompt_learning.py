import pytest
import torch

from kdvit_mm.models.algorithms.freekd_prompt_learning import (
    FreeKDPromptLearning,
)
from kdvit_mm.models.losses.feature.freekd import FreeKDLoss
from kdvit_mm.registry import MODELS
from tests.tiny import detection_batch, gfl


def _model(**changes):
    cfg = dict(
        _scope_='kdvit_mm',
        type='FreeKDPromptLearning',
        architecture=gfl(),
        channels=[16] * 5,
        num_tokens=3,
        overlap_weight=0.5,
    )
    return MODELS.build(cfg | changes).train()


def test_learns_prompts_by_the_losses_of_the_teacher():
    torch.manual_seed(0)
    model = _model()
    # An odd size: P3 to P7 are 19, 10, 5, 3 and 2 high.
    batch = detection_batch(size=150)
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    assert {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_overlap'} == set(losses)

    maps = model.architecture.backbone(data['inputs'])
    neck = type(model.architecture.neck).forward(model.architecture.neck, maps)
    prompted = [
        prompt(x) for prompt, x in zip(model.mask_modules, neck, strict=True)
    ]
    torch.testing.assert_close(
        losses['loss_overlap'], 0.5 * sum(overlap for _, overlap in prompted)
    )
    direct = model.architecture.bbox_head.loss(
        [
            y[..., : x.size(2), : x.size(3)]
            for x, (y, _) in zip(neck, prompted, strict=True)
        ],
        data['data_samples'],
    )
    for key, values in direct.items():
        torch.testing.assert_close(losses[key], values)

    model.parse_losses(losses)[0].backward()
    for prompt in model.mask_modules:
        assert prompt.mask_token.grad.abs().sum() > 0
    assert model.architecture.neck.fpn_convs[0].conv.weight.grad.any()


def test_its_checkpoint_is_that_of_the_loss(tmp_path):
    model = _model()
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    loss = FreeKDLoss([16] * 5, 3, prompt_ckpt=path)
    for a, b in zip(loss.mask_modules, model.mask_modules, strict=True):
        assert torch.equal(a.mask_token, b.mask_token)


def test_predicts_through_the_prompts():
    model = _model().eval()
    data = model.data_preprocessor(detection_batch(), False)
    before = model(**data, mode='tensor')[0][0]
    with torch.no_grad():
        model.mask_modules[0].mask_token.add_(1)
    assert not torch.equal(model(**data, mode='tensor')[0][0], before)


def test_says_what_does_not_fit():
    with pytest.raises(ValueError, match='no module "nek"; set source'):
        _model(source='nek')
    model = _model(channels=[16] * 4)
    data = model.data_preprocessor(detection_batch(), True)
    with pytest.raises(ValueError, match=r'FreeKDPromptLearning: channels='):
        model(**data, mode='loss')


def test_is_built_from_a_model_too():
    model = FreeKDPromptLearning(MODELS.build(gfl()), [16] * 5)
    assert len(model.mask_modules) == 5
