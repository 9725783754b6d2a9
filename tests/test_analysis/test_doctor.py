import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from mmrazor.registry import MODELS

import kdvit_mm  # noqa: F401
from kdvit_mm.analysis import Findings, diagnose
from kdvit_mm.analysis.configs import build_train_loader, first_batch
from kdvit_mm.analysis.doctor import (
    LossInfo,
    build_algorithm,
    count_flops,
    examination,
    judge_loss,
)
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
TRAINING = dict(
    train_cfg=dict(by_epoch=True, max_epochs=1),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-8)),
)
BGR_MEAN = [100.0, 110.0, 120.0]


def gfl(base=8, fpn=16, convs=1, mean=(0, 0, 0), bgr_to_rgb=False):
    model = tiny.gfl(base, fpn, convs)
    model.bbox_head.num_classes = 3
    model.data_preprocessor.update(
        mean=list(mean), std=[255] * 3, bgr_to_rgb=bgr_to_rgb
    )
    return model


def record(from_student, index=0, **kwargs):
    return dict(
        from_student=from_student, recorder='fpn', data_idx=index, **kwargs
    )


def distiller(weights=(1.0,), **kwargs):
    """CWD on the first FPN levels."""
    names = [f'loss_cwd_{i}' for i in range(len(weights))]
    cfg = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        distill_losses={
            name: dict(type='ChannelWiseDivergence', loss_weight=weight)
            for name, weight in zip(names, weights, strict=True)
        },
        loss_forward_mappings={
            name: dict(preds_S=record(True, i), preds_T=record(False, i))
            for i, name in enumerate(names)
        },
    )
    cfg.update(kwargs)
    return cfg


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Four noisy images for detection, segmentation and classification."""
    root = tmp_path_factory.mktemp('data')
    for folder in ('images', 'masks', 'classes/a', 'classes/b'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        image = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(0, SIZE - 32, 2))
        image[y : y + 32, x : x + 32] = 255 * (i % 2)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y : y + 32, x : x + 32] = 1 + i % 2
        for path in (
            root / 'images' / f'{i}.png',
            root / 'classes' / 'ab'[i % 2] / f'{i}.png',
        ):
            cv2.imwrite(str(path), image)
        cv2.imwrite(str(root / 'masks' / f'{i}.png'), mask)
        images.append(
            dict(id=i, file_name=f'{i}.png', width=SIZE, height=SIZE)
        )
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=i % 2,
                bbox=[x, y, 32, 32],
                area=1024,
                iscrowd=0,
            )
        )
    categories = [dict(id=i, name=name) for i, name in enumerate('abc')]
    (root / 'coco.json').write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=categories)
        )
    )
    return root


def loader(dataset):
    return dict(
        batch_size=4,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dataset,
    )


@pytest.fixture
def write(tmp_path, data_root):
    """Writes a config and returns its path."""

    def write_config(model, scope='mmdet', dataset=None, **keys):
        cfg = Config(
            dict(
                default_scope=scope,
                custom_imports=dict(
                    imports=['kdvit_mm'], allow_failed_imports=False
                ),
                model=model,
                train_dataloader=loader(
                    dataset
                    or dict(
                        type='CocoDataset',
                        data_root=str(data_root),
                        ann_file='coco.json',
                        data_prefix=dict(img='images/'),
                        metainfo=dict(classes=('a', 'b', 'c')),
                        pipeline=[
                            dict(type='LoadImageFromFile'),
                            dict(type='LoadAnnotations', with_bbox=True),
                            dict(type='PackDetInputs'),
                        ],
                    )
                ),
                **TRAINING | keys,
            )
        )
        path = tmp_path / 'config.py'
        cfg.dump(path)
        return str(path)

    return write_config


def algorithm(
    type='LeanTeacherDistill',
    student=None,
    teacher=None,
    distill=None,
    **kwargs,
):
    return dict(
        _scope_='kdvit_mm',
        type=type,
        architecture=student or gfl(),
        teacher=teacher or gfl(16, 16, 2),
        distiller=distill or distiller(),
        **kwargs,
    )


def said(messages, *parts):
    """Whether one of the messages holds all parts."""
    return any(all(part in message for part in parts) for message in messages)


@pytest.mark.parametrize(
    'type',
    [
        'LeanTeacherDistill',
        'SingleTeacherDistill',
        'FpnTeacherDistill',
    ],
)
def test_numbers(write, type):
    distill = distiller((2.0, 0.0))
    path = write(algorithm(type, distill=distill))
    found = diagnose(path, depth=1)
    assert found.exit_status == 0 and found.errors == []

    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_algorithm(cfg)
        batch = first_batch(build_train_loader(cfg, 0))
    model.load_state_dict(build_state(cfg))
    data = model.data_preprocessor(batch, True)
    model.train()
    losses = model(**data, mode='loss')
    task = sum(
        sum(v) if isinstance(v, list) else v
        for k, v in losses.items()
        if k.startswith('student.')
    )
    norms = {}
    for name, loss in dict(
        task=task, cwd=losses['distill.loss_cwd_0']
    ).items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        squares = [
            p.grad.pow(2).sum()
            for p in model.student.parameters()
            if p.grad is not None
        ]
        norms[name] = math.sqrt(sum(squares))

    cwd = {loss.name: loss for loss in found.losses}['distill.loss_cwd_0']
    assert found.task.value == pytest.approx(task.item(), rel=1e-5)
    assert found.task.grad_norm == pytest.approx(norms['task'], rel=1e-4)
    assert cwd.grad_norm == pytest.approx(norms['cwd'], rel=1e-4)
    assert cwd.value == pytest.approx(
        losses['distill.loss_cwd_0'].item(), rel=1e-5
    )
    assert cwd.weight == 2
    assert cwd.value_ratio == pytest.approx(cwd.value / found.task.value)
    assert cwd.unweighted_ratio == pytest.approx(cwd.value_ratio / 2)
    assert cwd.grad_ratio == pytest.approx(norms['cwd'] / norms['task'], 1e-4)
    assert {loss.name for loss in found.losses} == set(losses)
    # A weight of 0 is meant.
    assert not said(found.warnings, 'loss_cwd_1')

    for info, part in (
        (found.student, model.student),
        (found.teacher, model.teacher),
    ):
        assert info.params == sum(p.numel() for p in part.parameters())
        assert info.image == (3, SIZE, SIZE)
    modules = {m.name: m for m in found.teacher.modules}
    assert modules['neck'].shape == (
        '[(4, 16, 8, 8), (4, 16, 4, 4), (4, 16, 2, 2), (4, 16, 1, 1), '
        '(4, 16, 1, 1)]'
    )
    # Beyond the last record.
    assert modules['bbox_head'].calls == 1
    assert modules['neck'].params == sum(
        p.numel() for p in model.teacher.neck.parameters()
    )
    assert [(r.side, r.name, r.source, r.count) for r in found.recorders] == [
        ('student', 'fpn', 'neck', 1),
        ('teacher', 'fpn', 'neck', 1),
    ]
    assert found.recorders[1].shapes == [modules['neck'].shape]


def build_state(cfg):
    """Weights of a model that is built as the doctor builds it."""
    set_random_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return build_algorithm(cfg).state_dict()


def test_flops(write):
    found = diagnose(write(algorithm()), depth=3)
    modules = {m.name: m for m in found.student.modules}
    # The first convolution: 7x7, 3 to 8 channels, stride 2.
    assert modules['backbone.conv1'].params == 7 * 7 * 3 * 8
    assert found.student.flops > 7 * 7 * 3 * 8 * (SIZE // 2) ** 2
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        resnet = MODELS.build(
            dict(
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='ResNet', depth=18),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=1000, in_channels=512
                ),
            )
        )
    data = dict(inputs=torch.zeros(2, 3, 224, 224), data_samples=[None] * 2)
    # mmpretrain's model zoo: 1.82 G.
    assert count_flops(resnet, data) / 1e9 == pytest.approx(1.82, abs=0.01)


@pytest.mark.parametrize(
    'type', ['LeanTeacherDistill', 'SingleTeacherDistill']
)
def test_missing_connectors_are_all_named(write, type):
    model = algorithm(type, student=gfl(8, 8), distill=distiller((1.0, 1.0)))
    found = diagnose(write(model))
    assert found.exit_status == 1
    for name in ('loss_cwd_0', 'loss_cwd_1'):
        assert said(
            found.errors,
            name,
            f"connectors=dict({name}_s=dict(type='ConvModuleConnector', "
            'in_channel=8, out_channel=16',
        )
    # The rest is still there.
    assert found.task.grad_norm > 0 and found.recorders


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='kdvit_mm.DISTLoss', use_sigmoid=True),
        dict(type='kdvit_mm.CWDLoss'),
        dict(type='mmrazor.ChannelWiseDivergence'),
    ],
    ids=lambda loss: loss['type'],
)
@pytest.mark.parametrize('source', ['bbox_head.gfl_cls', 'bbox_head'])
def test_scores_of_other_classes(write, loss, source):
    teacher = gfl(16, 16, 2)
    teacher['bbox_head']['num_classes'] = 80
    distill = distiller(
        student_recorders=dict(fpn=dict(type='ModuleOutputs', source=source)),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source=source)),
        distill_losses=dict(loss_cwd_0=loss),
    )
    for mapping in distill['loss_forward_mappings']['loss_cwd_0'].values():
        mapping.pop('data_idx')
    if source == 'bbox_head':
        if loss['type'].startswith('mmrazor'):
            pytest.skip('it takes no lists')
        for mapping in distill['loss_forward_mappings']['loss_cwd_0'].values():
            mapping['data_idx'] = 0
    found = diagnose(write(algorithm(teacher=teacher, distill=distill)))
    assert found.exit_status == 1
    (text,) = found.errors
    assert '3 classes of the student' in text
    assert '80 classes of the teacher' in text
    assert 'PKDLoss' in text and "'neck'" in text
    assert 'onnector' not in text


def test_logits_of_other_classes(write, classification):
    model, dataset = classification
    model['teacher']['head']['num_classes'] = 10
    found = diagnose(write(model, 'mmpretrain', dataset))
    assert said(found.errors, 'scores of 2 classes', '10 classes')
    assert 'onnector' not in found.errors[0]


def test_channels_in_a_head_are_no_classes(write):
    """A connector helps there, and is named once."""
    teacher = gfl(16, 16, 2)
    teacher['bbox_head']['feat_channels'] = 32
    tower = dict(
        fpn=dict(type='ModuleOutputs', source='bbox_head.cls_convs.0')
    )
    distill = distiller(
        student_recorders=tower,
        teacher_recorders=tower,
        distill_losses=dict(loss_cwd_0=dict(type='kdvit_mm.CWDLoss')),
    )
    for mapping in distill['loss_forward_mappings']['loss_cwd_0'].values():
        mapping.pop('data_idx')
    found = diagnose(write(algorithm(teacher=teacher, distill=distill)))
    (text,) = found.errors
    assert text.count('connectors=dict(loss_cwd_0_s=') == 1
    assert text.count('ConvModuleConnector') == 1
    assert 'in_channel=16, out_channel=32' in text


def test_whose_weights(write, tmp_path):
    """A plain student checkpoint is not the teacher's."""
    path = write(algorithm())
    found = diagnose(path)
    assert found.weights == {'student': 'random', 'teacher': 'random'}

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_algorithm(Config.fromfile(path))
    files = {name: str(tmp_path / f'{name}.pth') for name in ('s', 't', 'all')}
    torch.save(dict(state_dict=model.student.state_dict()), files['s'])
    torch.save(dict(state_dict=model.teacher.state_dict()), files['t'])
    torch.save(dict(state_dict=model.state_dict()), files['all'])
    for name in ('s', 'all'):
        found = diagnose(path, {'load_from': files[name]})
        assert found.errors == []
        assert found.weights == {
            'student': f'load_from: {files[name]}',
            'teacher': 'random',
        }
        assert said(found.warnings, 'nothing loads its weights, and load_from')
    found = diagnose(path, {'load_from': files['t']})
    assert said(found.errors, 't.pth', 'cannot be loaded', 'teacher_ckpt')

    student = gfl()
    student['init_cfg'] = dict(type='Pretrained', checkpoint=files['s'])
    teacher = gfl(16, 16, 2)
    teacher['backbone']['init_cfg'] = dict(
        type='Pretrained', checkpoint=files['t'], prefix='backbone.'
    )
    path = write(algorithm(student=student, teacher=teacher))
    found = diagnose(path)
    assert found.weights == {
        'student': f'init_cfg: {files["s"]}',
        'teacher': f'backbone: {files["t"]}; the rest random',
    }
    assert said(found.warnings, 'nothing loads its weights')
    found = diagnose(
        path,
        {'model.teacher_ckpt': files['t'], 'load_from': files['s']},
    )
    assert found.weights['teacher'] == f'teacher_ckpt: {files["t"]}'
    assert not said(found.warnings, 'nothing loads its weights')

    # mmrazor's own algorithm saves the teacher.
    path = write(algorithm('SingleTeacherDistill'))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_algorithm(Config.fromfile(path))
    torch.save(dict(state_dict=model.state_dict()), files['all'])
    found = diagnose(path, {'load_from': files['all']})
    assert found.weights['teacher'] == f'load_from: {files["all"]}'
    assert not said(found.warnings, 'nothing loads its weights')


def test_another_device(write, monkeypatch):
    """Mixed precision is left out, where it would not work."""
    monkeypatch.setattr(examination, 'get_device', lambda: 'cuda')
    path = write(
        algorithm(),
        optim_wrapper=dict(
            type='AmpOptimWrapper',
            dtype='float16',
            optimizer=dict(type='SGD', lr=1e-8),
        ),
    )
    found = diagnose(path, device='cpu')
    assert found.errors == []
    assert said(found.warnings, 'AmpOptimWrapper', 'on "cpu" leaves out')


def test_config_that_cannot_be_built(write, tmp_path):
    distill = distiller(
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='nek'))
    )
    found = diagnose(write(algorithm(distill=distill)))
    assert found.exit_status == 1
    assert said(found.errors, 'cannot be built', '"nek"', 'neck')

    distill = distiller()
    mapping = distill['loss_forward_mappings']['loss_cwd_0']
    mapping['preds_S']['recorder'] = 'nope'
    found = diagnose(write(algorithm(distill=distill)))
    assert said(found.errors, '"nope" must be in `student_recorders`')

    found = diagnose(write(algorithm(inherrit=True)))
    assert said(found.errors, '"inherrit"', 'Did you mean "inherit"?')

    missing = str(tmp_path / 'missing.pth')
    found = diagnose(write(algorithm(teacher_ckpt=missing)))
    assert said(found.errors, 'missing.pth', 'cannot be read')

    torch.save(dict(state_dict=dict(other=torch.ones(1))), missing)
    found = diagnose(write(algorithm(teacher_ckpt=missing)))
    assert said(found.errors, '0 of ', 'keys matched')

    found = diagnose(write(algorithm()), {'load_from': 'none.pth'})
    assert said(found.errors, 'none.pth')
    assert diagnose(str(tmp_path / 'none.py')).exit_status == 1
    found = diagnose(write(algorithm()), {'model.teacher.type': 'GLF'})
    assert said(found.errors, 'GLF is not in the mmdet::model registry')
    found = diagnose(write(algorithm()), device='nowhere')
    assert said(found.errors, 'device "nowhere"')


def test_plain_model(write):
    found = diagnose(write(gfl()))
    assert found.exit_status == 1
    assert said(found.errors, '"GFL" is a plain model', 'LeanTeacherDistill')


def test_missing_and_empty_data(write, data_root):
    path = write(algorithm())
    found = diagnose(path, {'train_dataloader.dataset.ann_file': 'no.json'})
    assert found.exit_status == 1
    assert said(found.errors, 'no.json', 'data_root')
    empty = data_root / 'empty.json'
    empty.write_text('{"images": [], "annotations": [], "categories": []}')
    found = diagnose(path, {'train_dataloader.dataset.ann_file': 'empty.json'})
    assert said(found.errors, 'train_dataloader gives no batch')


def test_failing_step(write):
    """The head wants five levels, the neck gives four."""
    student = gfl()
    student['neck']['num_outs'] = 4
    found = diagnose(write(algorithm(student=student)))
    assert found.exit_status == 1
    assert said(found.errors, 'The training step fails', '.py:')
    modules = {m.name: m for m in found.student.modules}
    assert modules['neck'].calls == 1


def test_not_finite(write):
    distill = distiller((1e39, 1.0))
    found = diagnose(write(algorithm(distill=distill)))
    assert found.exit_status == 1
    assert said(found.errors, 'loss_cwd_0 is not finite: value inf')
    assert len(found.errors) == 1


def test_gradient_does_not_reach_the_student(write):
    """P6 is a 1x1 map here, on which CWD has no gradient."""
    found = diagnose(write(algorithm(distill=distiller([1.0] * 4))))
    assert found.exit_status == 0
    assert said(found.warnings, 'loss_cwd_3 does nothing', 'gradient norm 0')
    assert not said(found.warnings, 'loss_cwd_0 does nothing')


def test_activation_checkpointing(write):
    plain = diagnose(write(algorithm()))
    student = gfl()
    student['backbone']['with_cp'] = True
    found = diagnose(write(algorithm(student=student)))
    assert found.errors == []
    assert found.task.grad_norm == pytest.approx(plain.task.grad_norm, 1e-4)
    assert [loss.grad_norm for loss in found.losses] == pytest.approx(
        [loss.grad_norm for loss in plain.losses], 1e-4
    )


def test_scales(write):
    distill = distiller((1e7, 1e-9))
    found = diagnose(write(algorithm(distill=distill)))
    assert said(found.warnings, 'loss_cwd_0 is large', 'Lower ')
    assert said(found.warnings, 'loss_cwd_1 is small', 'Raise ')
    losses = {loss.name: loss for loss in found.losses}
    large = losses['distill.loss_cwd_0']
    assert said(
        found.warnings,
        f'value is {large.value_ratio:.3g} times',
        f'norm {large.grad_ratio:.3g} times',
        f'loss_cwd_0.loss_weight={1e7 / large.grad_ratio:.2g} the two',
    )


@pytest.mark.parametrize(
    ('value_ratio', 'grad_ratio', 'words'),
    [
        (1.0, 100.0, ('large', 'Lower ', '.x.loss_weight=0.02 ')),
        (1.0, 1e-3, ('small', 'Raise ', '.x.loss_weight=2e+03 ')),
        (-100.0, 1.0, ('large', 'leave the weight')),
        (1e-4, 1.0, None),
        (99.0, 99.0, None),
    ],
)
def test_limits_of_scale(value_ratio, grad_ratio, words):
    found = Findings()
    loss = LossInfo(
        'distill.x',
        value_ratio,
        grad_ratio,
        weight=2.0,
        value_ratio=value_ratio,
        grad_ratio=grad_ratio,
    )
    judge_loss(found, loss, 'x')
    assert found.errors == []
    assert said(found.warnings, *(words or ())) == bool(words)


def test_balanced_weights_are_not_reported(write):
    found = diagnose(write(algorithm()))
    loss = next(x for x in found.losses if x.name == 'distill.loss_cwd_0')
    balanced = loss.weight / max(loss.grad_ratio, loss.value_ratio)
    found = diagnose(write(algorithm(distill=distiller((balanced,)))))
    assert not said(found.warnings, 'loss_cwd_0')


def test_names(write):
    distill = distiller((1.0, 1.0))
    distill['student_recorders']['spare'] = dict(
        type='ModuleOutputs', source='backbone'
    )
    distill['distill_losses']['cwd'] = distill['distill_losses']['loss_cwd_0']
    mappings = distill['loss_forward_mappings']
    mappings['cwd'] = mappings.pop('loss_cwd_0')
    found = diagnose(write(algorithm(distill=distill)))
    assert found.exit_status == 0
    assert said(found.warnings, 'distill_losses.loss_cwd_0 is never computed')
    assert said(found.warnings, 'distill_losses.cwd is logged but never')
    assert said(found.warnings, 'student_recorders.spare is used by no')
    assert not said(found.warnings, 'recorders.fpn')


def test_teacher_setup(write):
    found = diagnose(
        write(
            algorithm(
                'SingleTeacherDistill',
                student=gfl(16, 16, 2),
                teacher=gfl(mean=BGR_MEAN, bgr_to_rgb=True),
                teacher_trainable=True,
            ),
            data_preprocessor=dict(
                type='mmdet.DetDataPreprocessor',
                mean=[1, 2, 3],
                std=[255] * 3,
                pad_size_divisor=32,
            ),
        )
    )
    assert said(
        found.warnings, 'mean=[100.0, 110.0, 120.0]', 'mean=[1.0, 2.0, 3.0]'
    )
    assert said(found.warnings, 'bgr_to_rgb=True', 'bgr_to_rgb=False')
    assert not said(found.warnings, 'expects std')
    assert said(found.warnings, 'require gradients', 'teacher_trainable')
    assert said(found.warnings, 'student has more parameters')
    assert said(found.warnings, 'untrained', 'model.teacher_ckpt')


def test_no_gradient_at_all(write):
    distill = distiller((), distill_losses={}, loss_forward_mappings={})
    model = algorithm(distill=distill, calculate_student_loss=False)
    found = diagnose(write(model))
    assert said(found.errors, 'No loss has a gradient')
    assert found.task is None


def classifier(base):
    model = tiny.resnet(base)
    model.head.num_classes = model.data_preprocessor.num_classes = 2
    return model


@pytest.fixture
def classification(data_root):
    distill = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tau=4)),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
    dataset = dict(
        type='CustomDataset',
        data_root=str(data_root / 'classes'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    return algorithm(
        student=classifier(4), teacher=classifier(8), distill=distill
    ), dataset


def test_trained_teacher(write, classification, tmp_path):
    model, dataset = classification
    path = write(model, 'mmpretrain', dataset)
    found = diagnose(path)
    assert found.exit_status == 0
    assert said(found.warnings, 'nothing loads its weights')
    assert said(found.warnings, 'untrained', 'freshly initialised')
    assert found.student.flops < found.teacher.flops

    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        teacher = MODELS.build(cfg.model.teacher)
        batch = first_batch(build_train_loader(cfg, 0))
    teacher.init_weights()
    checkpoint = str(tmp_path / 'teacher.pth')
    torch.save(teacher.state_dict(), checkpoint)
    model['teacher_ckpt'] = checkpoint
    path = write(model, 'mmpretrain', dataset)
    found = diagnose(path)
    # A checkpoint alone proves nothing.
    assert said(found.warnings, 'untrained', 'freshly initialised')
    assert not said(found.warnings, 'nothing loads its weights')

    data = teacher.data_preprocessor(batch, True)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
    teacher.train()
    for _ in range(30):
        optimizer.zero_grad()
        teacher(**data, mode='loss')['loss'].backward()
        optimizer.step()
    torch.save(teacher.state_dict(), checkpoint)
    found = diagnose(path)
    assert found.teacher_loss < 0.5 * found.fresh_loss
    assert not said(found.warnings, 'untrained')


def test_teacher_by_config_path(write, classification):
    model, dataset = classification
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    model['teacher'] = dict(cfg_path=path, pretrained=False)
    model['distiller']['connectors'] = dict(
        widen=dict(
            type='TorchNNConnector',
            module_name='Linear',
            module_args=dict(in_features=2, out_features=10),
        )
    )
    mapping = model['distiller']['loss_forward_mappings']['loss_kl']
    mapping['preds_S']['connector'] = 'widen'
    found = diagnose(write(model, 'mmpretrain', dataset))
    assert found.errors == []
    assert said(found.warnings, 'nothing loads its weights')
    assert said(found.warnings, 'untrained', 'freshly initialised')
    assert said(found.warnings, 'mean=[125.307, 122.961, 113.857]')


def fcn(base):
    model = tiny.fcn(base)
    model.decode_head.num_classes = 3
    return model


def test_segmentation(write, data_root):
    source = 'decode_head.conv_seg'
    distill = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(fpn=dict(type='ModuleOutputs', source=source)),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source=source)),
        distill_losses=dict(loss_cwd=dict(type='ChannelWiseDivergence')),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='fpn'),
                preds_T=dict(from_student=False, recorder='fpn'),
            )
        ),
    )
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(data_root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('background', 'a', 'b')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    model = algorithm(
        'SingleTeacherDistill',
        student=fcn(4),
        teacher=fcn(8),
        distill=distill,
    )
    found = diagnose(write(model, 'mmseg', dataset))
    assert found.errors == []
    assert [r.shapes for r in found.recorders] == [['(4, 3, 2, 2)']] * 2
    assert found.student.flops < found.teacher.flops
    modules = {m.name: m for m in found.student.modules}
    # mmseg calls its forward directly: a recorder finds nothing there.
    assert modules['decode_head'].calls == 0
    assert {loss.name for loss in found.losses} == {
        'student.decode.loss_ce',
        'distill.loss_cwd',
    }


@pytest.mark.usefixtures('forked')
def test_command(write):
    path = write(algorithm(student=gfl(8, 8)))
    done = subprocess.run(
        [sys.executable, 'tools/analysis/doctor.py', path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    for line in (
        'student: GFL',
        'backbone.layer1',
        'FLOPs (multiply-adds)',
        'ERROR: distill loss "loss_cwd_0"',
        "type='ConvModuleConnector', in_channel=8, out_channel=16",
        'WARNING: The teacher looks untrained',
        'This config cannot train.',
    ):
        assert line in done.stdout
