"""Models by cfg_path: keys beside it, local files, published weights."""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmrazor.registry import MODELS as RAZOR_MODELS

from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.registry import MODELS
from tests import tiny

GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
SMALL = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=48),
    bbox_head=dict(num_classes=3, in_channels=48),
)


def test_keys_beside_cfg_path_are_merged():
    model = ConfigDict(cfg_path=GFL, pretrained=False, **SMALL)
    before = copy.deepcopy(model)
    plain = resolve_cfg_path(model)
    assert model == before
    zoo = get_config(GFL).model
    assert plain.bbox_head == ConfigDict(
        zoo.bbox_head, num_classes=3, in_channels=48
    )
    assert plain.neck.num_outs == 5 and plain.neck.out_channels == 48
    assert plain.train_cfg == zoo.train_cfg
    assert plain._scope_ == 'mmdet' and 'cfg_path' not in plain


@pytest.mark.parametrize('registry', [MODELS, RAZOR_MODELS])
def test_keys_beside_cfg_path_are_built(registry):
    model = registry.build(ConfigDict(cfg_path=GFL, pretrained=False, **SMALL))
    assert model.bbox_head.num_classes == 3
    assert model.bbox_head.gfl_cls.out_channels == 3
    assert model.neck.fpn_convs[0].conv.out_channels == 48
    assert model.backbone.layer4[-1].conv2.out_channels == 64


def test_delete_is_honoured_every_time():
    neck = dict(
        _delete_=True,
        type='ChannelMapper',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
    )
    model = ConfigDict(cfg_path=GFL, neck=neck)
    for _ in range(2):
        plain = resolve_cfg_path(model)
        assert set(plain.neck) == {'type', 'in_channels', 'out_channels'}


def test_key_of_another_kind_is_refused():
    with pytest.raises(ValueError, match='beside cfg_path "mmdet::gfl'):
        resolve_cfg_path(
            ConfigDict(cfg_path=GFL, bbox_head=dict(num_classes=dict(a=1)))
        )


@pytest.mark.parametrize(
    'kind', ['LeanTeacherDistill', 'SingleTeacherDistill']
)
def test_teacher_and_student_by_cfg_path(kind):
    changed = dict(cfg_path=GFL, pretrained=False, **SMALL)
    model = MODELS.build(
        tiny.algorithm(kind, architecture=changed, teacher=changed)
    )
    for part in (model.architecture, model.teacher):
        assert part.bbox_head.num_classes == 3
        mean = part.data_preprocessor.mean.flatten()
        assert torch.allclose(mean, torch.tensor([123.675, 116.28, 103.53]))
    batch = tiny.detection_batch(size=64)
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= 3
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    assert all(torch.isfinite(losses[f'distill.loss_{i}']) for i in range(3))


def local(folder, **top) -> str:
    path = folder / 'teacher.py'
    Config(dict(model=dict(tiny.gfl(16)), **top)).dump(path)
    return str(path)


def test_local_file(tmp_path, monkeypatch):
    pre = dict(type='DetDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3)
    path = local(tmp_path, data_preprocessor=pre)
    changes = dict(bbox_head=dict(num_classes=3))
    model = RAZOR_MODELS.build(dict(cfg_path=path, **changes))
    assert model.bbox_head.num_classes == 3
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3
    monkeypatch.chdir(tmp_path)
    assert resolve_cfg_path(dict(cfg_path='teacher.py')).type == 'GFL'


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(cfg_path='no/such.py'), r'Config\.fromfile\(.*/no/such\.py'),
        (dict(cfg_path='mmdet::no/such.py'), '"mmdet::no/such.py" cannot'),
        (dict(cfg_path='mmnone::a/b.py'), '"mmnone::a/b.py" cannot'),
        (
            dict(cfg_path='mmdet::_base_/models/retinanet_r50_fpn.py',
                 pretrained=True),
            'publishes no weights.*teacher_ckpt',
        ),
        (
            dict(cfg_path='mmdet::_base_/schedules/schedule_1x.py'),
            'config without a model',
        ),
    ],
)  # fmt: skip
def test_unreadable_cfg_path_says_what_to_do(model, message):
    with pytest.raises(ValueError, match=message):
        resolve_cfg_path(model)


def test_pretrained_local_file_is_refused(tmp_path):
    path = local(tmp_path)
    with pytest.raises(ValueError, match='teacher_ckpt'):
        RAZOR_MODELS.build(dict(cfg_path=path, pretrained=True))


def test_published_weights(tmp_path, monkeypatch):
    """Downloaded already, so that no network is needed."""
    zoo = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    torch.manual_seed(0)
    trained = RAZOR_MODELS.build(dict(cfg_path=zoo)).state_dict()
    file = tmp_path / 'hub' / 'checkpoints'
    file.mkdir(parents=True)
    file /= get_config(zoo, pretrained=True).model_path.rpartition('/')[2]
    torch.save(dict(state_dict=trained), file)

    teacher = dict(cfg_path=zoo, pretrained=True)
    torch.manual_seed(1)
    model = RAZOR_MODELS.build(teacher)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained[key]), key
    # Keys that change no weight.
    RAZOR_MODELS.build(teacher | dict(train_cfg=dict()))
    with pytest.raises(ValueError, match=r'head\.fc\.bias is \(3,\).*1000'):
        RAZOR_MODELS.build(teacher | dict(head=dict(num_classes=3)))
    wider = dict(neck=dict(_delete_=True, type='HRFuseScales',
                           in_channels=[1280]))  # fmt: skip
    with pytest.raises(ValueError, match='is not in the checkpoint'):
        RAZOR_MODELS.build(teacher | wider)
