import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck, ResNet

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
PRETRAIN = Config.fromfile(CONFIGS / 'pretrain/resnext18-32x4d_8xb32_in1k.py')
STUDENT = Config.fromfile(
    CONFIGS / 'students/mmdet/gfl_rx18-32x4d_fpn_1x_coco.py'
)


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def backbone(**changes):
    return MODELS.build(dict(type='kdvit_mm.ResNeXt18', **changes))


def multiply_adds(model, height, width):
    model.eval()
    images = torch.zeros(1, 3, height, width, device='meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to('meta')(images)
    return counter.get_total_flops() / 2


def test_costs_what_its_docstring_says():
    model = backbone()
    assert sum(w.numel() for w in model.parameters()) == 13_340_480
    assert round(multiply_adds(model, 224, 224) / 1e9, 3) == 2.469
    assert round(multiply_adds(model, 1280, 800) / 1e9, 3) == 50.381
    classifier = build(PRETRAIN)
    assert sum(w.numel() for w in classifier.parameters()) == 15_389_480
    assert round(multiply_adds(classifier, 224, 224) / 1e9, 3) == 2.471


def test_is_torchvisions_network_of_that_plan():
    torch.manual_seed(0)
    theirs = ResNet(Bottleneck, [2, 2, 2, 2], groups=32, width_per_group=4)
    ours = build(PRETRAIN)
    state = theirs.state_dict()
    ours.backbone.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith('fc.')}
    )
    ours.head.load_state_dict(
        {k: v for k, v in state.items() if k.startswith('fc.')}
    )
    images = torch.rand(1, 3, 64, 64)
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_maps_are_those_of_resnet50():
    model = backbone(out_indices=(0, 1, 2, 3))
    shapes = [tuple(x.shape) for x in model(torch.rand(1, 3, 64, 96))]
    assert shapes == [
        (1, 256, 16, 24),
        (1, 512, 8, 12),
        (1, 1024, 4, 6),
        (1, 2048, 2, 3),
    ]
    convs = [model.layer1[0].conv2, model.layer4[1].conv2]
    assert [(c.groups, c.in_channels) for c in convs] == [
        (32, 128),
        (32, 1024),
    ]


def test_pretrained_weights_load_into_a_detector(tmp_path):
    trained = build(PRETRAIN)
    trained.init_weights()
    checkpoint = tmp_path / 'epoch_100.pth'
    torch.save(dict(state_dict=trained.state_dict()), checkpoint)
    cfg = copy.deepcopy(STUDENT)
    cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
    detector = build(cfg)
    detector.init_weights()
    weights = detector.backbone.state_dict()
    expected = trained.backbone.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_missing_pretrained_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='resnext18-32x4d_8xb32_in1k'):
        build(STUDENT).init_weights()


def test_first_stage_stays_frozen_in_a_detector():
    detector = build(STUDENT)
    detector.train()
    stem = [detector.backbone.conv1, detector.backbone.layer1]
    assert not any(w.requires_grad for m in stem for w in m.parameters())
    assert all(w.requires_grad for w in detector.backbone.layer2.parameters())
    assert not detector.backbone.layer2[0].bn1.training
