"""The networks for CIFAR are mdistiller's, map by map."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.models.task_modules import RecorderManager

from kdvit_mm.models.algorithms import LeanTeacherDistill
from tests.mdistiller_nets import NETWORKS
from tests.test_tools.test_scripts import ROOT, load

CONFIGS = ROOT / 'configs' / '_base_' / 'models'


def build(name: str, **backbone):
    cfg = Config.fromfile(CONFIGS / f'{NETWORKS[name].config}_cifar100.py')
    cfg.model.backbone.update(backbone)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg.model)


def before_relu(name: str) -> list[tuple[dict, dict]]:
    """Recorders of the maps before the ReLU, and what to take of them."""
    outputs = {
        'wrn': ['layer2.0.bn1', 'layer3.0.bn1', 'layer4.0'],
        'vgg8': ['layer1.1.bn', 'layer2.1.bn', 'layer3.1.bn', 'layer4.0.bn'],
        'vgg13': ['layer1.2.bn', 'layer2.2.bn', 'layer3.2.bn', 'layer4.1.bn'],
        'Mobile': ['layer1', 'layer2', 'layer3', 'layer4'],
        'Shuffle': ['layer1.3.preact', 'layer2.7.preact', 'layer3.3.preact'],
    }
    for start, sources in outputs.items():
        if name.startswith(start):
            return [
                (dict(type='ModuleOutputs', source=f'backbone.{source}'), {})
                for source in sources
            ]
    if name == 'ResNet50':
        lasts, calls = (2, 3, 5, 2), 3
    else:
        lasts, calls = (NETWORKS[name].options['depth'] // 6 - 1,) * 3, 2
    return [
        (
            dict(
                type='ModuleInputs',
                source=f'backbone.layer{stage + 1}.{last}.relu',
            ),
            dict(record_idx=calls - 1, data_idx=0),
        )
        for stage, last in enumerate(lasts)
    ]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize('name', NETWORKS)
def test_is_mdistillers_network(name):
    network = NETWORKS[name]
    images = torch.randn(
        2, 3, 32, 32,
        generator=torch.Generator().manual_seed(0), dtype=torch.float64,
    )  # fmt: skip
    weights, expected = network.run(images)
    model = build(name, out_indices=range(len(expected.stages)))
    assert sum(p.numel() for p in model.parameters()) == network.parameters
    converter = load('model_converters/mdistiller_to_mmpretrain.py')
    model.double().eval()
    model.load_state_dict(converter.renamed(name, weights))
    records = before_relu(name)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        recorders = RecorderManager(
            {str(i): r for i, (r, _) in enumerate(records)}
        )
    recorders.initialize(model)
    with recorders, torch.no_grad():
        maps = model.backbone(images)
    assert_equal(maps, expected.stages)
    assert_equal(
        [
            recorders.get_recorder(str(i)).get_record_data(**which)
            for i, (_, which) in enumerate(records)
        ],
        expected.preact,
    )
    with torch.no_grad():
        assert_equal(model(images), expected.logits)


@pytest.mark.parametrize(
    ('name', 'stages'),
    [
        ('resnet8x4', [(64, 32), (128, 16), (256, 8)]),
        ('resnet20', [(16, 32), (32, 16), (64, 8)]),
        ('wrn_40_2', [(32, 32), (64, 16), (128, 8), (128, 8)]),
        ('vgg8', [(128, 16), (256, 8), (512, 4), (512, 4)]),
        ('MobileNetV2', [(12, 16), (16, 8), (48, 4), (160, 2), (1280, 2)]),
        ('ShuffleV1', [(240, 16), (480, 8), (960, 4)]),
        ('ShuffleV2', [(116, 16), (232, 8), (464, 4), (1024, 4)]),
    ],
)
def test_maps_have_these_sizes(name, stages):
    model = build(name, out_indices=(0, len(stages) - 1)).eval()
    shapes = [tuple(x.shape) for x in model.backbone(torch.rand(1, 3, 32, 32))]
    assert shapes == [(1, c, s, s) for c, s in (stages[0], stages[-1])]


@pytest.mark.parametrize('name', NETWORKS)
def test_starts_as_mdistiller_does(name):
    torch.manual_seed(0)
    model = build(name)
    model.init_weights()
    for part in model.backbone.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            assert (part.weight == 1).all() and (part.bias == 0).all()
        if isinstance(part, torch.nn.Conv2d) and part.weight.numel() > 2000:
            size = part.weight[0].numel()
            if name.startswith('Shuffle'):
                assert 0.9 < part.weight.abs().max() * size**0.5 <= 1
            else:
                fan_out = part.out_channels * part.kernel_size[0] ** 2
                std = (2 / fan_out) ** 0.5
                assert 0.9 < part.weight.std() / std < 1.1
    weight = model.head.fc.weight
    if name.startswith(('vgg', 'Mobile')):
        assert 0.009 < weight.std() < 0.011
    else:
        assert 0.95 < weight.abs().max() * weight.shape[1] ** 0.5 <= 1


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(type='CIFARResNet', depth=18), 'depth=18: take 6 n'),
        (dict(type='CIFARResNet', depth=2), 'depth=2: take 6 n'),
        (
            dict(type='CIFARWideResNet', depth=17, widen_factor=2),
            'depth=17: take 6 n',
        ),
        (dict(type='CIFARVGG', depth=16), 'depth=16: take 8 or 13'),
        (
            dict(type='CIFARMobileNetV2', out_indices=(1, 5)),
            r'CIFARMobileNetV2 .* out_indices=\(1, 5\): take them from 0 to 4',
        ),
        (
            dict(type='CIFARShuffleNetV2', out_indices=(-1,)),
            r'out_indices=\(-1,\): take them from 0 to 3',
        ),
    ],
)
def test_refuses_what_there_is_not(backbone, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(_scope_='kdvit_mm', **backbone))


def test_distils_maps_before_the_relu():
    """Of a ResNet under a wide ResNet, whose maps have the same sizes."""
    torch.manual_seed(0)
    student, teacher = (
        Config.fromfile(CONFIGS / f'{name}_cifar100.py').model
        for name in ('resnet20', 'wrn-40-1')
    )
    records = {True: before_relu('resnet20'), False: before_relu('wrn_40_1')}

    def recorders(from_student: bool) -> dict:
        return {
            f'stage{i}': record
            for i, (record, _) in enumerate(records[from_student])
        }

    def mapping(stage: int, from_student: bool) -> dict:
        return dict(
            recorder=f'stage{stage}',
            from_student=from_student,
            **records[from_student][stage][1],
        )

    model = LeanTeacherDistill(
        architecture=student,
        teacher=teacher,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=recorders(True),
            teacher_recorders=recorders(False),
            distill_losses={
                f'loss_{i}': dict(type='FeatureL2Loss') for i in range(3)
            },
            loss_forward_mappings={
                f'loss_{i}': dict(
                    preds_S=mapping(i, True), preds_T=mapping(i, False)
                )
                for i in range(3)
            },
        ),
    ).train()
    found = []
    model.student.backbone.layer2[2].relu.register_forward_pre_hook(
        lambda part, inputs: found.append(inputs[0].detach().clone())
    )
    model.teacher.backbone.layer3[0].bn1.register_forward_hook(
        lambda part, inputs, output: found.append(output.detach().clone())
    )
    samples = [DataSample().set_gt_label(label) for label in (3, 98)]
    losses = model(torch.randn(2, 3, 32, 32), samples, mode='loss')
    teacher_map, _, student_map = found
    torch.testing.assert_close(
        losses['distill.loss_1'].detach(), F.mse_loss(student_map, teacher_map)
    )
    total, _ = model.parse_losses(losses)
    total.backward()
    for stage in ('conv1', 'layer1', 'layer2', 'layer3'):
        part = getattr(model.student.backbone, stage)
        gradients = [p.grad.norm() for p in part.parameters()]
        assert all(0 < g < float('inf') for g in gradients)
