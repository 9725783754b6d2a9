"""What mmrazor took from mmcls works with mmpretrain."""

from pathlib import Path

import mmcv
import mmrazor.datasets
import mmrazor.models
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS, TRANSFORMS, VISUALIZERS

from kdvit_mm import compat

SAMPLES = [DataSample().set_gt_label(label) for label in (0, 2)]
CONFIGS = Path(mmrazor.__path__[0], '.mim', 'configs')


def test_only_mmrazor_sees_mmcls():
    with pytest.raises(ImportError):
        __import__('mmcls')
    assert set(compat.applied['mmcls_imports']) == set(
        compat.PATCHES['mmcls_imports']
    )


def test_a_config_of_mmrazor_builds_and_has_a_loss():
    file = 'distill/mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k.py'
    cfg = Config.fromfile(CONFIGS / file)
    model = MODELS.build(cfg.model | {'teacher_ckpt': None})
    for part in (model.architecture, model.teacher):
        assert type(part).__module__.startswith('mmpretrain.')
    losses = model(torch.rand(2, 3, 32, 32), SAMPLES, mode='loss')
    assert losses['distill.loss_kl'] > 0


def test_scope_names_in_every_place():
    assert MODELS.get('mmcls.ResNet') is MODELS.get('mmpretrain.ResNet')
    assert TRANSFORMS.get('mmcls.PackClsInputs').__name__ == 'PackInputs'
    cfg = {'_scope_': 'mmcls', 'type': 'GlobalAveragePooling'}
    assert type(MODELS.build(cfg)).__module__.startswith('mmpretrain.')
    with DefaultScope.overwrite_default_scope('mmcls'):
        assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'


def test_darts_head_has_the_loss_of_both_classifiers():
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type='mmrazor.DartsSubnetClsHead',
            num_classes=3,
            in_channels=8,
            aux_in_channels=4,
            loss=dict(type='mmcls.CrossEntropyLoss'),
            aux_loss=dict(type='mmcls.CrossEntropyLoss', loss_weight=0.4),
        )
    )
    feats = torch.randn(2, 4), torch.randn(2, 8)
    losses = head.loss(feats, SAMPLES)
    labels = torch.tensor([0, 2])
    cross_entropy = torch.nn.functional.cross_entropy
    auxiliary = 0.4 * cross_entropy(head.aux_linear(feats[0]), labels)
    assert torch.allclose(losses['aux_head..loss'], auxiliary)
    assert torch.allclose(
        losses['loss'], cross_entropy(head.fc(feats[1]), labels)
    )


def test_deit_head_runs_the_distillation_token():
    head = MODELS.build(
        dict(type='mmrazor.DeiTClsHead', num_classes=3, in_channels=8)
    )
    seen = []
    head.layers.head_dist.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape)
    )
    feats = ((torch.rand(2, 8, 4, 4), torch.rand(2, 8), torch.rand(2, 8)),)
    assert head(feats).shape == (2, 3)
    assert seen == [(2, 3)]


def test_searchable_classifier_and_backbone_run():
    model = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='SearchableImageClassifier',
            backbone=dict(type='mmcls.ResNet', depth=18),
            neck=dict(type='mmcls.GlobalAveragePooling'),
            head=dict(
                type='mmcls.LinearClsHead', num_classes=3, in_channels=512
            ),
        )
    )
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    for name in ('MobileNetV2', 'ShuffleNetV2'):
        backbone = MODELS.get(f'mmrazor.Searchable{name}')
        assert backbone.__mro__[1].__module__.startswith('mmpretrain.')


def test_crd_inputs_are_packed():
    pack = TRANSFORMS.build({'type': 'mmrazor.PackCRDClsInputs'})
    image = np.zeros((4, 5, 3), np.uint8)
    packed = pack(
        {
            'img': image,
            'gt_label': 2,
            'sample_idx': 7,
            'contrast_sample_idxs': np.arange(3),
        }
    )
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 4, 5)
    assert (sample.gt_label.item(), sample.sample_idx.item()) == (2, 7)
    assert sample.contrast_sample_idxs.tolist() == [0, 1, 2]


def test_feature_maps_are_drawn(tmp_path):
    visualizer = VISUALIZERS.get('mmcls.ClsVisualizer')()
    image = np.full((40, 50, 3), 128, np.uint8)
    file = str(tmp_path / 'a.png')
    # as RazorVisualizationHook calls it
    visualizer.add_datasample(
        'a',
        image,
        draw_gt=False,
        draw_pred=False,
        show=False,
        wait_time=0.1,
        out_file=file,
        step=0,
    )
    assert (mmcv.imread(file) == image).all()
