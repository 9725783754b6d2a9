"""What holds for every distill loss, and for ``LevelWise``."""

import warnings

import pytest
import torch

from kdvit_mm.models.losses.base import DistillLoss
from kdvit_mm.registry import MODELS, RenamedKeyWarning
from tests import tiny
from tests.loss_checks import train_step
from tests.test_models.test_losses.test_mgd import make_distiller

CHANNELS = 4
FGD = dict(
    type='kdvit_mm.FGDLoss',
    channels=CHANNELS,
    alpha_fgd=0.1,
    beta_fgd=0.1,
    gamma_fgd=0.1,
    lambda_fgd=0.1,
)
MAPS = dict(
    at=dict(type='kdvit_mm.ATLoss'),
    cwd=dict(type='kdvit_mm.CWDLoss'),
    pkd=dict(type='kdvit_mm.PKDLoss'),
    l2=dict(type='kdvit_mm.FeatureL2Loss'),
    hcl=dict(type='kdvit_mm.HCLLoss'),
    mgd=dict(type='kdvit_mm.MGDLoss', alpha_mgd=0.5),
    dist=dict(type='kdvit_mm.DISTLoss'),
    cirkd=dict(type='kdvit_mm.CIRKDMiniBatchLoss'),
    sp=dict(type='kdvit_mm.SPLoss'),
    fgd=FGD,
    defeat=dict(
        type='kdvit_mm.DeFeatLoss',
        fg_weight=3,
        bg_weight=12,
        stride=[8, 16, 32],
    ),
    freekd=dict(type='kdvit_mm.FreeKDLoss', channels=[CHANNELS] * 3),
    kd=dict(type='kdvit_mm.KDLoss'),
    lskd=dict(type='kdvit_mm.LogitStandardise', loss=dict(type='KDLoss')),
)
on_maps = pytest.mark.parametrize('name', MAPS)


def pyramid(seed: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, CHANNELS, size, size, generator=generator)
        for size in (16, 8, 4)
    ]


def build(config, **options):
    torch.manual_seed(0)
    return MODELS.build({**config, **options})


def per_level(name, level):
    """The loss of one level alone, of a loss that has a level's index."""
    config = dict(MAPS[name])
    if name == 'defeat':
        config.update(stride=8 * 2**level, level=level, num_levels=3)
    if name == 'freekd':
        loss = build(config)
        one = build(config, channels=[CHANNELS])
        one.mask_modules[0].load_state_dict(
            loss.mask_modules[level].state_dict()
        )
        return one
    return build(config)


@on_maps
def test_levels_are_summed_and_weighted(name):
    samples = tiny.detection_batch(2, 128)['data_samples']
    students, teachers = pyramid(0), pyramid(1)
    value = build(MAPS[name])(students, teachers, samples)
    expected = sum(
        per_level(name, level)(*pair, samples)
        for level, pair in enumerate(zip(students, teachers, strict=True))
    )
    torch.testing.assert_close(value, expected)
    assert value > 0
    heavy = build(MAPS[name], loss_weight=2.5)(students, teachers, samples)
    torch.testing.assert_close(heavy, 2.5 * value)


@on_maps
def test_an_empty_batch_is_zero_with_gradients(name):
    students = [x.requires_grad_() for x in pyramid(0, batch=0)]
    value = build(MAPS[name])(students, pyramid(1, batch=0), [])
    assert value.item() == 0
    value.backward()
    assert all(x.grad is not None for x in students)


@on_maps
def test_numbers_are_float32_and_the_teacher_gets_no_gradient(name):
    samples = tiny.detection_batch(2, 128)['data_samples']
    students = [x.bfloat16().requires_grad_() for x in pyramid(0)]
    teachers = [x.bfloat16().requires_grad_() for x in pyramid(1)]
    with torch.autocast('cpu', torch.bfloat16):
        value = build(MAPS[name])(students, teachers, samples)
    assert value.dtype == torch.float32
    value.backward()
    assert any(x.grad.abs().sum() > 0 for x in students)
    assert all(x.grad is None for x in teachers)


@on_maps
@pytest.mark.parametrize('weight', [-1, float('nan'), float('inf'), '1'])
def test_weights_that_are_none_are_refused(name, weight):
    with pytest.raises(ValueError, match=r'loss_weight.*at least 0'):
        build(MAPS[name], loss_weight=weight)
    with pytest.raises(ValueError, match='loss_weight'):
        build(MAPS[name]).loss_weight = weight


def test_every_loss_keeps_the_contract():
    """All registered losses derive from it and have a weight of 1."""
    import kdvit_mm.models.losses as package

    found = [
        cls
        for name in package.__all__
        if name.endswith(('Loss', 'LevelWise'))
        and isinstance(cls := getattr(package, name), type)
    ]
    assert len(found) >= 14
    assert all(issubclass(cls, DistillLoss) for cls in found)


@pytest.mark.parametrize(
    ('new', 'old', 'words'),
    [
        (dict(FGD, tau=0.3), dict(FGD, temp=0.3), 'temp is now tau'),
        (
            dict(type='DeFeatRoILoss', fg_weight=2, bg_weight=2, tau=3.0),
            dict(
                type='DeFeatRoILoss', fg_weight=2, bg_weight=2, temperature=3.0
            ),
            'temperature is now tau',
        ),
        (
            dict(
                type='SelectedLevelsLoss',
                selector=dict(type='AllLevels'),
                num_levels=3,
                loss=dict(type='CWDLoss', tau=2.0),
            ),
            dict(
                type='SelectedLevelsLoss',
                selector=dict(type='AllLevels'),
                num_levels=3,
                level_loss=dict(type='CWDLoss', tau=2.0),
            ),
            'level_loss is now loss',
        ),
    ],
    ids=['FGD', 'DeFeatRoI', 'SelectedLevels'],
)
def test_keys_of_version_0_1(new, old, words):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        expected = build(new, _scope_='kdvit_mm')
    with pytest.warns(RenamedKeyWarning, match=words) as caught:
        loss = build(old, _scope_='kdvit_mm')
    assert len(caught) == 1
    temperatures = [
        [getattr(part, 'tau', None) for part in one.modules()]
        for one in (loss, expected)
    ]
    assert temperatures[0] == temperatures[1]
    assert any(temperatures[0])


def test_an_old_key_beside_the_new_one_is_refused():
    with pytest.raises(TypeError, match='tau and its old name temp'):
        build(FGD, tau=0.5, temp=0.5)


def level_wise(loss, **options):
    return build(
        dict(type='kdvit_mm.LevelWise', loss=loss, num_levels=3), **options
    )


@on_maps
def test_level_wise_is_the_sum_of_its_levels(name):
    samples = tiny.detection_batch(2, 128)['data_samples']
    students, teachers = pyramid(0), pyramid(1)
    loss = level_wise(MAPS[name], loss_weight=0.5)
    if name in ('defeat', 'freekd'):
        assert len(loss.losses) == 1
        expected = loss.losses[0](students, teachers, samples)
    else:
        assert len({id(one) for one in loss.losses}) == 3
        expected = sum(
            one(*pair, data_samples=samples)
            for one, *pair in zip(loss.losses, students, teachers, strict=True)
        )
    torch.testing.assert_close(
        loss(students, teachers, samples), 0.5 * expected
    )


def test_level_wise_takes_some_levels_and_other_packages_losses():
    students, teachers = pyramid(0), pyramid(1)
    loss = level_wise(
        dict(type='mmrazor.ChannelWiseDivergence', tau=1), levels=[0, 2]
    )
    ours = build(MAPS['cwd'])
    torch.testing.assert_close(
        loss(students, teachers),
        ours(students[0], teachers[0]) + ours(students[2], teachers[2]),
    )


def test_level_wise_has_a_connector_per_level():
    connector = dict(
        type='ConvModuleConnector',
        in_channel=2,
        out_channel=CHANNELS,
        act_cfg=None,
    )
    loss = level_wise(MAPS['l2'], connector=connector)
    students = [x[:, :2] for x in pyramid(0)]
    teachers = pyramid(1)
    convs = [one.conv_module.conv for one in loss.connectors]
    assert not torch.equal(convs[0].weight, convs[1].weight)
    expected = sum(
        (conv(student) - teacher).square().mean()
        for conv, student, teacher in zip(
            convs, students, teachers, strict=True
        )
    )
    torch.testing.assert_close(loss(students, teachers), expected)
    channels = level_wise(MAPS['l2'])
    with pytest.raises(
        ValueError,
        match=r'level 0.*\(2, 2, 16, 16\).*connector=dict\(type='
        "'ConvModuleConnector', in_channel=2, out_channel=4",
    ):
        channels(students, teachers)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(levels=[0, 3]), r'levels=\[0, 3\].*num_levels=3'),
        (dict(levels=[]), r'levels=\[\]'),
        (dict(loss=[MAPS['l2']] * 2), 'loss has 2 configs for 3 levels'),
        (
            dict(connector=[dict(type='mmrazor.ConvModuleConnector')] * 4),
            'connector has 4 configs',
        ),
    ],
)
def test_level_wise_names_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        level_wise(**{'loss': MAPS['l2'], **options})


def test_level_wise_names_pyramids_of_other_levels():
    with pytest.raises(ValueError, match=r'preds_T .*num_levels=3 maps'):
        level_wise(MAPS['l2'])(pyramid(0), pyramid(1)[:2])
    with pytest.raises(ValueError, match=r'preds_S .*num_levels=3 maps'):
        level_wise(MAPS['l2'])(pyramid(0)[0], pyramid(1))


def test_level_wise_equals_one_loss_per_level_in_a_detector():
    """The five entries of version 0.1, with their draws, are its one entry."""
    five = make_distiller(0.5)
    one = {
        **five,
        'connectors': {},
        'distill_losses': dict(
            loss_mgd=dict(
                type='kdvit_mm.LevelWise',
                num_levels=5,
                loss=five['distill_losses']['loss_mgd_0'],
                connector=five['connectors']['generate_0'],
            )
        ),
        'loss_forward_mappings': dict(
            loss_mgd=dict(
                preds_S=dict(recorder='fpn', from_student=True),
                preds_T=dict(recorder='fpn', from_student=False),
            )
        ),
    }
    results = [
        train_step(
            tiny.gfl(8, 8),
            tiny.gfl(8, 16),
            config,
            tiny.detection_batch(2, 128),
        )
        for config in (one, five)
    ]
    totals = [sum(losses.values()) for _, losses in results]
    torch.testing.assert_close(*totals, rtol=1e-6, atol=0)
    gradients = [
        [p.grad for p in algorithm.architecture.neck.parameters()]
        for algorithm, _ in results
    ]
    for new, old in zip(*gradients, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-9)
