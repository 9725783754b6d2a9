"""Ensembles of real models, and the tool that joins checkpoints."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kdvit_mm.models.ensembles import MERGERS
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.loss_checks import classification_batch
from tests.test_engine.test_training import (
    DISTILLED,
    PLAIN,
    read_config,
    train,
)
from tests.test_tools.test_scripts import run as run_tool

MODELS_OF = dict(
    mmpretrain=(tiny.resnet, classification_batch),
    mmseg=(tiny.fcn, tiny.segmentation_batch),
    mmdet=(tiny.gfl, tiny.detection_batch),
)


def build(package, number=2):
    torch.manual_seed(0)
    make, batch = MODELS_OF[package]
    members = [MODELS.build(make()) for _ in range(number)]
    for member in members:
        member.init_weights()
    ensemble = MODELS.build(
        dict(
            type='kdvit_mm.Ensemble', members=members, merger=MERGERS[package]
        )
    ).eval()
    return ensemble, ensemble.data_preprocessor(batch(), False)


def predictions(ensemble, data):
    with torch.no_grad():
        found = ensemble(**copy.deepcopy(data))
        single = [
            member(**copy.deepcopy(data), mode='predict')
            for member in ensemble.members
        ]
    return found, single


def test_classifiers_average_their_probabilities():
    ensemble, data = build('mmpretrain', 3)
    found, single = predictions(ensemble, data)
    for index, sample in enumerate(found):
        scores = torch.stack([s[index].pred_score for s in single])
        torch.testing.assert_close(sample.pred_score, scores.mean(0))
        assert sample.pred_label.item() == scores.mean(0).argmax().item()
        assert sample.gt_label == data['data_samples'][index].gt_label
    assert any(
        one[0].pred_label.item() != found[0].pred_label.item()
        or not torch.equal(one[0].pred_score, found[0].pred_score)
        for one in single
    )


def test_segmentors_average_their_probabilities():
    ensemble, data = build('mmseg')
    for sample in data['data_samples']:
        sample.set_metainfo(dict(ori_shape=(64, 64), img_path=''))
    found, single = predictions(ensemble, data)
    for index, sample in enumerate(found):
        maps = torch.stack(
            [s[index].seg_logits.data.softmax(0) for s in single]
        )
        assert torch.equal(
            sample.pred_sem_seg.data, maps.mean(0).argmax(0, keepdim=True)
        )


def test_detectors_join_their_boxes():
    ensemble, data = build('mmdet')
    for member in ensemble.members:
        member.bbox_head.test_cfg.score_thr = 0.0
    found, single = predictions(ensemble, data)
    for index, sample in enumerate(found):
        boxes = sample.pred_instances.bboxes
        pool = torch.cat([s[index].pred_instances.bboxes for s in single])
        assert 0 < len(boxes) <= 100
        # Each is one of a member's, and both members have some.
        # cdist would round: it may expand the square of the difference.
        distance = (boxes[:, None] - pool).abs().amax(-1).min(1)
        assert distance.values.max() < 1e-3
        owners = distance.indices < len(single[0][index].pred_instances)
        assert 0 < owners.sum() < len(owners)


def test_it_predicts_only_and_saves_each_member_once():
    ensemble, data = build('mmpretrain')
    with pytest.raises(ValueError, match='Train its members one by one'):
        ensemble(**data, mode='loss')
    names = {key.split('.')[0] for key in ensemble.state_dict()}
    assert names == {'members'}


@pytest.mark.usefixtures('forked')
def test_tool_joins_a_student_and_a_plain_model(digits, tmp_path):
    train(read_config(PLAIN['cls'], digits, tmp_path / 'plain', 1))
    train(read_config(DISTILLED['cls'], digits, tmp_path / 'distilled', 1))
    files = [tmp_path / n / 'epoch_1.pth' for n in ('plain', 'distilled')]
    out = tmp_path / 'joined' / 'ensemble.pth'
    done = run_tool('model_converters/make_ensemble.py', out, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '2 members written' in done.stdout
    cfg = Config.fromfile(out.with_suffix('.py'))
    cfg.update(load_from=str(out), work_dir=str(tmp_path / 'test'))
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    assert metrics.keys() == {'accuracy/top1'}
    states = [torch.load(f, weights_only=False)['state_dict'] for f in files]
    first, second = runner.model.members
    assert torch.equal(first.head.fc.weight, states[0]['head.fc.weight'])
    assert torch.equal(
        second.head.fc.weight, states[1]['architecture.head.fc.weight']
    )


@pytest.mark.usefixtures('forked')
def test_tool_refuses_what_is_no_ensemble(tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict={}), file)
    tool = 'model_converters/make_ensemble.py'
    done = run_tool(tool, tmp_path / 'out.pth', file, file)
    assert done.returncode == 1
    assert 'holds no config' in done.stderr
    done = run_tool(tool, tmp_path / 'out.pth', file)
    assert done.returncode == 2
    assert 'two checkpoints or more' in done.stderr
