"""Students that teach each other, against plain torch and training alone."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner

from kdvit_mm.engine.loops import EachStudentValLoop
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.loss_checks import classification_batch
from tests.resume_checks import read_config, run, run_in_halves
from tests.test_engine.test_training import PLAIN, assert_same, train
from tests.test_tools.test_scripts import run as run_tool

MUTUAL = dict(
    cls='mutual_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32',
    det='mutual_head_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96',
)


def distiller(*peers: str) -> dict:
    """KL divergence of probabilities, from each student to each other."""
    sources = {'student': 'architecture'} | {p: f'peers.{p}' for p in peers}
    recorders = {
        name: dict(type='ModuleOutputs', source=f'{source}.head.fc')
        for name, source in sources.items()
    }
    pairs = [(a, b) for a in sources for b in sources if a != b]
    weight = 1 / len(peers)
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses={
            f'loss_{a}_{b}': dict(type='KDLoss', loss_weight=weight)
            for a, b in pairs
        },
        loss_forward_mappings={
            f'loss_{a}_{b}': dict(
                preds_S=dict(recorder=a, from_student=True),
                preds_T=dict(recorder=b, from_student=False),
            )
            for a, b in pairs
        },
    )


def build(**changes):
    torch.manual_seed(0)
    config = dict(
        _scope_='kdvit_mm',
        type='MutualDistill',
        architecture=tiny.resnet(4),
        peers=dict(wide=tiny.resnet(8), twin=tiny.resnet(4)),
        distiller=distiller('wide', 'twin'),
    )
    model = MODELS.build(config | changes)
    model.init_weights()
    model.train()
    return model


def data(model):
    return model.data_preprocessor(classification_batch(), True)


def test_gradients_are_those_of_the_paper_s_loss():
    model = build()
    reference = copy.deepcopy(model)
    batch = data(model)
    total, _ = model.parse_losses(model(**batch, mode='loss'))
    total.backward()

    labels = torch.cat([s.gt_label for s in batch['data_samples']])
    students = students_of(reference)
    assert [*students] == ['student', 'wide', 'twin']
    logits = {
        name: student.head(student.extract_feat(batch['inputs']))
        for name, student in students.items()
    }
    losses = {}
    for name, ours in logits.items():
        losses[name] = F.cross_entropy(ours, labels)
        for other, theirs in logits.items():
            if other != name:
                target = theirs.detach().softmax(1)
                losses[name] = losses[name] + 0.5 * F.kl_div(
                    ours.log_softmax(1), target, reduction='batchmean'
                )
    torch.testing.assert_close(total, sum(losses.values()))
    for name, loss in losses.items():
        # Each student's loss alone has gradients in that student alone.
        weights = [*students[name].parameters()]
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        own = students_of(model)[name].parameters()
        for expected, parameter in zip(gradients, own, strict=True):
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-4, atol=1e-6
            )


def test_equal_networks_start_from_different_weights():
    model = build()
    first, twin = model.student, model.peers.twin
    assert first.state_dict().keys() == twin.state_dict().keys()
    assert not torch.equal(first.head.fc.weight, twin.head.fc.weight)


def test_logged_losses_say_whose_they_are():
    model = build()
    names = set(model(**data(model), mode='loss'))
    assert {n for n in names if n.startswith('student.')} == {
        'student.loss', 'student.wide.loss', 'student.twin.loss'
    }  # fmt: skip
    assert len(names) == 3 + 6


def test_the_first_student_predicts_unless_told_otherwise():
    model = build().eval()
    batch = data(model)
    with torch.no_grad():
        scores = {}
        for name, student in students_of(model).items():
            scores[name] = student(**copy.deepcopy(batch), mode='predict')
            with model.predicting(name):
                found = model(**copy.deepcopy(batch), mode='predict')
            assert all(
                torch.equal(a.pred_score, b.pred_score)
                for a, b in zip(found, scores[name], strict=True)
            )
        plain = model(**copy.deepcopy(batch), mode='predict')
    first = torch.stack([s.pred_score for s in plain])
    wide = torch.stack([s.pred_score for s in scores['wide']])
    assert torch.equal(
        first, torch.stack([s.pred_score for s in scores['student']])
    )
    assert not torch.equal(first, wide)


@pytest.mark.parametrize('peers', [{}, dict(student=tiny.resnet())])
def test_wrong_peers_are_explained(peers):
    with pytest.raises(ValueError, match='peers is a dictionary of one or'):
        build(peers=peers)


def test_an_unknown_source_is_explained():
    wrong = distiller('wide', 'twin')
    wrong['student_recorders']['wide']['source'] = 'peers.wide.head.fcs'
    with pytest.raises(AssertionError, match=r'peers\.wide\.head\.fc'):
        build(distiller=wrong)


def without_clipping(cfg: Config) -> Config:
    """The norm of one optimiser's gradients would be that of all students."""
    cfg.optim_wrapper.pop('clip_grad', None)
    return cfg


@pytest.mark.parametrize('each', [True, False], ids=['each', 'one'])
def test_weight_zero_trains_the_first_as_if_alone(each, digits, tmp_path):
    cfg = read_config(PLAIN['cls'], digits, tmp_path / 'alone', 2)
    alone = train(cfg if each else without_clipping(cfg))
    cfg = read_config(MUTUAL['cls'], digits, tmp_path / 'zero', 2)
    for loss in cfg.model.distiller.distill_losses.values():
        loss.loss_weight = 0.0
    if not each:
        del cfg.optim_wrapper['constructor']
        without_clipping(cfg)
    assert_same(alone, train(cfg))


@pytest.mark.parametrize('task', MUTUAL)
def test_resumed_training_equals_training_straight(task, digits, tmp_path):
    def config(name):
        return lambda: read_config(MUTUAL[task], digits, tmp_path / name, 2)

    straight = run(config('straight')()).model.state_dict()
    assert_same(straight, run_in_halves(config('halves')).model.state_dict())


def test_all_students_are_evaluated(digits, tmp_path):
    """Each as a plain runner of its plain config does."""
    cfg = read_config(MUTUAL['cls'], digits, tmp_path / 'mutual', 1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    metrics = runner.val_loop.run()
    assert isinstance(runner.val_loop, EachStudentValLoop)
    assert metrics.keys() == {'accuracy/top1', 'peer/accuracy/top1'}
    for name, student in students_of(runner.model).items():
        plain = read_config(PLAIN['cls'], digits, tmp_path / name, 1)
        if name == 'peer':
            plain.model = Config.fromfile(cfg.filename).model.peers.peer
        other = Runner.from_cfg(plain)
        other.model.load_state_dict(student.state_dict())
        prefix = '' if name == 'student' else f'{name}/'
        expected = other.val()['accuracy/top1']
        assert metrics[f'{prefix}accuracy/top1'] == expected
    logged = runner.message_hub.log_scalars
    assert 'val/peer/accuracy/top1' in logged


def test_the_loop_refuses_other_models(digits, tmp_path):
    cfg = read_config(PLAIN['cls'], digits, tmp_path, 1)
    cfg.val_cfg.type = 'kdvit_mm.EachStudentValLoop'
    with pytest.raises(TypeError, match='needs a MutualDistill'):
        Runner.from_cfg(cfg).val()


def test_hooks_of_one_model_are_refused_and_checks_repeated(digits, tmp_path):
    cfg = read_config(MUTUAL['det'], digits, tmp_path / 'refused', 1)
    cfg.custom_hooks.append(dict(type='mmdet.YOLOXModeSwitchHook'))
    with pytest.raises(ValueError, match='YOLOXModeSwitchHook changes one mo'):
        Runner.from_cfg(cfg).train()
    cfg = read_config(MUTUAL['det'], digits, tmp_path / 'checked', 1)
    cfg.custom_hooks.append(dict(type='mmdet.NumClassCheckHook'))
    cfg.model.peers.peer.bbox_head.num_classes = 7
    with pytest.raises(AssertionError, match='7'):
        Runner.from_cfg(cfg).train()


def test_a_peer_may_be_the_name_of_a_config():
    wide = Path(__file__).parents[3] / 'configs/demo'
    model = build(
        peers=dict(
            wide=dict(cfg_path=str(wide / 'resnet18-w0.25_10e_digits-32.py'))
        ),
        distiller=distiller('wide'),
    )
    assert model.peers.wide.backbone.base_channels == 16
    losses = model(**data(model), mode='loss')
    assert losses['distill.loss_student_wide'] > 0


@pytest.mark.usefixtures('forked')
def test_any_student_is_exported(digits, tmp_path):
    run(read_config(MUTUAL['cls'], digits, tmp_path / 'mutual', 1))
    checkpoint = tmp_path / 'mutual' / 'epoch_1.pth'
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    tool = 'model_converters/export_student.py'
    for name, prefix in (
        ('student', 'architecture.'),
        ('peer', 'peers.peer.'),
    ):
        out = tmp_path / f'{name}.pth'
        done = run_tool(tool, checkpoint, out, '--student', name)
        assert done.returncode == 0, done.stderr[-2000:]
        exported = torch.load(out, weights_only=False)
        for key, value in exported['state_dict'].items():
            assert torch.equal(value, state[prefix + key])
        # Its config is an ordinary one, of one student.
        cfg = Config.fromstring(exported['meta']['cfg'], '.py')
        assert cfg.val_cfg.type == 'ValLoop'
        assert 'constructor' not in cfg.optim_wrapper
        assert cfg.optim_wrapper.optimizer.type == 'AdamW'
        width = dict(student=4, peer=16)[name]
        assert cfg.model.backbone.base_channels == width
    done = run_tool(tool, checkpoint, tmp_path / 'no.pth', '--student', 'b')
    assert done.returncode == 1
    assert 'no student "b"; besides the first it has peer' in done.stderr
