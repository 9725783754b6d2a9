"""Weights that are moved by the gradients of the losses."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from kdvit_mm.engine.hooks.auto_loss_weight_hook import odds_ratio
from kdvit_mm.registry import MODELS
from tests.golden import parametrize
from tests.resume_checks import DISTILLED, read_config, run, run_in_halves
from tests.test_engine.test_training import assert_same
from tests.tiny import algorithm, detection_batch, distiller

HOOK = 'kdvit_mm.AutoLossWeightHook'


@MODELS.register_module(force=True)
class Centre(BaseModel):
    """Is drawn to each of some points, by half the squared distance."""

    def __init__(self, at: float = 0.0, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.place = nn.Parameter(torch.linspace(at / 2, 3 * at / 2, 4))
        self.record = nn.Identity()

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        found = self.record(self.place + torch.zeros_like(inputs))
        return dict(loss=(found - inputs).square().sum(1).mean() / 2)


class Follow(Hook):
    """Keeps weights and shares of all iterations."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.shares: list[float] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any):
        scalars = runner.message_hub.log_scalars
        self.weights.append(scalars['train/auto_weight/l2'].current())
        self.shares.append(scalars['train/auto_weight/share_l2'].current())


def toy(weight: float) -> dict:
    """A centre of points around 0 under a teacher at 2."""
    record = dict(rec=dict(type='ModuleOutputs', source='record'))
    return dict(
        type='LeanTeacherDistill',
        architecture=dict(type='Centre'),
        teacher=dict(type='Centre', at=2.0),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=record,
            teacher_recorders=record,
            distill_losses=dict(
                loss_l2=dict(type='FeatureL2Loss', loss_weight=weight)
            ),
            loss_forward_mappings=dict(
                loss_l2=dict(
                    preds_S=dict(recorder='rec', from_student=True),
                    preds_T=dict(recorder='rec', from_student=False),
                )
            ),
        ),
    )


def toy_runner(
    folder: Path,
    model: dict,
    hooks: list[Any],
    lr: float = 0.0,
    steps: int = 20,
    **others: Any,
) -> Runner:
    """Trains on 40 points, four a step, ten steps an epoch."""
    rank = int(os.environ.get('RANK', 0))
    points = torch.randn(40, 4, generator=torch.Generator().manual_seed(rank))
    settings = dict(
        train_cfg=dict(by_epoch=True, max_epochs=steps // 10),
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='WARNING',
    )
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader([dict(inputs=p) for p in points], 4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
        custom_hooks=hooks,
        default_scope='kdvit_mm',
        experiment_name=str(folder),
        **(settings | others),
    )


def train_toy(
    folder: Path, weight: float = 1.0, lr: float = 0.0, steps: int = 20, **auto
) -> tuple[Runner, Follow]:
    """Trains a centre of points with the hook."""
    follow = Follow()
    hooks = [dict(type=HOOK, **auto), follow]
    runner = toy_runner(folder, toy(weight), hooks, lr, steps)
    runner.train()
    return runner, follow


@parametrize(
    'gam_rtdetrv4', *(f'gam/{kind}' for kind in ('in_', 'bel', 'cl', 'l', 'm'))
)
def test_rule_equals_official_code(case):
    """Except where nothing was measured, when the weight stays here."""
    found, share = case.settings, case.inputs['percentages'].mean() / 100
    factor = odds_ratio(float(share), found['rho'] / 100, found['delta'] / 100)
    assert found['weight'] * factor == pytest.approx(
        float(case.outputs['new_weight']), rel=1e-10
    )


def test_one_move_is_enough_where_the_student_stays(tmp_path):
    """The odds are proportional to the weight: it goes to the far edge."""
    _, follow = train_toy(tmp_path, ratio=0.3, band=0.1, interval=10)
    before, after = follow.shares[0], follow.shares[10]
    odds = after / (1 - after) * (1 - before) / before
    assert follow.weights[:9] == [1] * 9
    assert follow.weights[9] == pytest.approx(odds, rel=1e-4)
    # Nothing changes but the batches, which are those of each epoch.
    mean = sum(follow.shares[10:20]) / 10
    assert 0.2 <= mean <= 0.4
    assert len(set(follow.weights[9:])) == 1


@pytest.mark.parametrize(('weight', 'ratio'), [(100, 0.2), (1e-3, 0.4)])
def test_converges_into_the_band(weight, ratio, tmp_path):
    """While the student moves between its points and the teacher."""
    auto = dict(ratio=ratio, band=0.05)
    _, follow = train_toy(tmp_path, weight, lr=0.02, steps=200, **auto)
    mean = sum(follow.shares[-30:]) / 30
    assert abs(follow.shares[0] - ratio) > 0.15
    assert abs(mean - ratio) <= 0.05


def test_moves_by_ten_at_most_and_within_max_factor(tmp_path, capsys):
    auto = dict(interval=10, max_factor=50)
    _, follow = train_toy(tmp_path, 1e-4, steps=30, **auto)
    # Of what the config says.
    assert follow.weights[9::10] == pytest.approx([1e-3, 5e-3, 5e-3])
    said = capsys.readouterr().out
    assert said.count('the weight of loss_l2 is at 50 times that of the') == 1


def test_an_epoch_is_the_interval_unless_it_is_said(tmp_path):
    _, follow = train_toy(tmp_path, 1e-3)
    moves = [
        i + 1
        for i in range(1, 20)
        if follow.weights[i] != follow.weights[i - 1]
    ]
    assert moves == [10, 20]
    # Measured at every iteration, of which there are ten.
    assert len({*follow.shares[:10]}) == 10


def pyramid(**recorder) -> dict:
    """CWD on three levels, and one of the logits beside it."""
    config = distiller('neck', 0)
    rec = dict(type='ModuleOutputs', source='neck') | recorder
    config.student_recorders = dict(
        rec=rec, head=dict(type='ModuleOutputs', source='bbox_head')
    )
    config.teacher_recorders = copy.deepcopy(config.student_recorders)
    levels = dict(type='LevelWise', num_levels=5, loss=dict(type='CWDLoss'))
    classes = dict(type='KDLoss', use_sigmoid=True, loss_weight=0.1)
    config.distill_losses = dict(loss_cwd=levels, loss_kd=classes)
    config.loss_forward_mappings = {
        name: {
            f'preds_{side}': dict(
                recorder=record, from_student=side == 'S', **index
            )
            for side in 'ST'
        }
        for name, record, index in (
            ('loss_cwd', 'rec', {}),
            ('loss_kd', 'head', dict(data_idx=0)),
        )
    }
    return config


def runner_of(
    model: dict,
    folder: Path,
    samples: list[dict],
    optim: Any = None,
    **auto: Any,
) -> Runner:
    """A runner of one epoch, two images a step, whose student stays."""
    auto.setdefault('interval', 100)
    return Runner(
        model=copy.deepcopy(model),
        work_dir=str(folder),
        train_dataloader=DataLoader(samples, 2, collate_fn=pseudo_collate),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=optim or dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[dict(type=HOOK, **auto)],
        randomness=dict(seed=0),
        default_scope='kdvit_mm',
        log_level='WARNING',
        experiment_name=str(folder),
    )


def images(number: int = 2) -> list[dict]:
    batch = detection_batch(number, 128)
    return [
        dict(inputs=image, data_samples=sample)
        for image, sample in zip(
            batch['inputs'], batch['data_samples'], strict=True
        )
    ]


def first_shares(runner: Runner) -> dict[str, float]:
    """What is measured at the first step."""
    runner.train()
    names = ('cwd', 'kd')
    scalars = runner.message_hub.log_scalars
    return {
        name: scalars[f'train/auto_weight/share_{name}'].data[0][0]
        for name in names
    }


def test_share_of_each_loss_at_what_it_reads(tmp_path):
    """By a backward for each loss, to the maps and to the scores."""
    config = algorithm(distiller=pyramid())
    runner = runner_of(config, tmp_path, images())
    shares = first_shares(runner)
    model = runner.model
    kept: dict[str, list[torch.Tensor]] = {}
    model.student.neck.register_forward_hook(
        lambda m, i, out: kept.update(cwd=[*out])
    )
    model.student.bbox_head.register_forward_hook(
        lambda m, i, out: kept.update(kd=[*out[0]])
    )
    batch = pseudo_collate(images())
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    task = model.parse_losses(
        {k: v for k, v in losses.items() if 'student' in k}
    )[0]
    for name, places in kept.items():
        norms = []
        for loss in (losses[f'distill.loss_{name}'], task):
            for place in places:
                place.retain_grad()
                place.grad = None
            loss.backward(retain_graph=True)
            found = [p.grad.norm() for p in places if p.grad is not None]
            norms.append(torch.stack(found).norm())
        expected = norms[0] / (norms[0] + norms[1])
        assert shares[name] == pytest.approx(float(expected), rel=1e-4)
    assert shares['cwd'] != pytest.approx(shares['kd'], rel=0.01)


def test_levels_of_a_pyramid_that_the_head_sees_apart(tmp_path):
    """FPNLevelSelection hands views to the losses and others to the head."""
    plain, cut = (
        first_shares(
            runner_of(
                algorithm(distiller=pyramid(**recorder)),
                tmp_path / str(i),
                images(),
            )
        )
        for i, recorder in enumerate(({}, dict(type='FPNLevelSelection')))
    )
    assert cut == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize('kind', ['bfloat16', 'accumulated'])
def test_precision_and_accumulation_leave_the_shares(kind, tmp_path):
    found = []
    for is_plain in (True, False):
        optim = dict(optimizer=dict(type='SGD', lr=0.0))
        if kind == 'accumulated' and not is_plain:
            optim.update(accumulative_counts=4)
        runner = runner_of(
            algorithm(distiller=pyramid()),
            tmp_path / str(is_plain),
            images(),
            optim,
        )
        reduced = kind == 'bfloat16' and not is_plain
        with torch.autocast('cpu', torch.bfloat16, reduced):
            found.append(first_shares(runner))
    within = 0.05 if kind == 'bfloat16' else 1e-6
    assert found[1] == pytest.approx(found[0], rel=within)


def config(digits: Path, folder: Path, epochs: int = 2, **auto: Any) -> Any:
    cfg = read_config(DISTILLED['cls'], digits, folder, epochs)
    # Ten iterations an epoch; an interval goes on into the second.
    cfg.custom_hooks.append(
        dict(type=HOOK, **dict(dict(ratio=0.3, band=0.01, interval=4), **auto))
    )
    return cfg


def test_resumes_bit_for_bit_within_an_interval(digits, tmp_path):
    whole = run(config(digits, tmp_path / 'whole'))
    halves = run_in_halves(lambda: config(digits, tmp_path / 'halves'))
    assert_same(
        whole.model.student.state_dict(), halves.model.student.state_dict()
    )
    weights = [
        r.model.distiller.distill_losses['loss_kd'].loss_weight
        for r in (whole, halves)
    ]
    assert weights[0] == weights[1] != 0.9
    saved = torch.load(tmp_path / 'whole' / 'epoch_1.pth', weights_only=False)[
        'auto_loss_weights'
    ]['loss_kd']
    # Iterations 8 and 9, and no other since the move.
    assert saved['count'] == 2 and 0 < saved['shares'] < 2


def test_measuring_alone_changes_nothing(digits, tmp_path):
    """With dropout, batch norm and clipping; the band is all shares."""
    auto = config(digits, tmp_path / 'with', 1, ratio=0.5, band=0.4999999)
    alone = config(digits, tmp_path / 'without', 1)
    alone.custom_hooks.pop()
    assert_same(*(run(c).model.student.state_dict() for c in (auto, alone)))


@pytest.mark.usefixtures('forked')
def test_two_ranks_agree(tmp_path):
    """On the mean of the shares of both, whose points differ."""
    script = str(Path(__file__).with_name('auto_weight_on_two_ranks.py'))
    root = str(Path(__file__).resolve().parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path), str(rank)],
            env=os.environ
            | dict(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                PYTHONPATH=root,
                OMP_NUM_THREADS='1',
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors[0]
    one, other = (
        json.loads((tmp_path / f'{rank}.json').read_text())
        for rank in range(2)
    )
    assert one['weights'] == other['weights']
    assert one['weights'][-1] != one['weights'][0]
    assert one['shares'] == other['shares']
    assert one['own'] != other['own']
    own = zip(one['own'], other['own'], strict=True)
    assert one['shares'] == pytest.approx([sum(pair) / 2 for pair in own])


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        (dict(ratio=0.05), 'above 0 and below 1'),
        (dict(ratio=0.95), 'above 0 and below 1'),
        (dict(band=0), 'above 0 and below 1'),
        (dict(interval=0), 'must not be below 1'),
        (dict(max_factor=0.5), 'must not be below 1'),
    ],
)
def test_wrong_keys_are_refused_when_built(wrong, words):
    with pytest.raises(ValueError, match=words):
        HOOKS.build(dict(type=HOOK, **wrong))


def schedule(**keys: Any) -> dict:
    return dict(
        type='kdvit_mm.DistillScheduleHook',
        schedules=[dict(loss='*', type='constant', factor=2, **keys)],
    )


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(hooks=[schedule()]), 'DistillScheduleHook both set the weight'),
        (dict(hooks=[dict(type=HOOK)]), 'both set the weight of loss_l2'),
        (dict(weight=0), 'the weight of loss_l2 is 0'),
        (dict(calculate_student_loss=False), 'there is no task loss'),
        (dict(losses='loss_l1'), 'no distill loss "loss_l1".*loss_l2'),
        (dict(by_iteration=True), 'Set interval'),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    change, words, tmp_path
):
    model = toy(change.get('weight', 1))
    model['calculate_student_loss'] = 'calculate_student_loss' not in change
    hook = dict(type=HOOK, losses=change.get('losses', '*'))
    others = {}
    if 'by_iteration' in change:
        others['train_cfg'] = dict(by_epoch=False, max_iters=2)
    hooks = [hook, *change.get('hooks', [])]
    runner = toy_runner(tmp_path, model, hooks, **others)
    with pytest.raises(ValueError, match=words):
        runner.train()
    assert runner.iter == 0


def test_a_plain_model_is_refused(tmp_path):
    runner = toy_runner(tmp_path, dict(type='Centre'), [dict(type=HOOK)])
    with pytest.raises(TypeError, match='needs a distillation algorithm'):
        runner.train()


def test_other_schedules_go_together(tmp_path, capsys):
    """One of the temperature, and a stop, after which the weight stays."""
    model = toy(1e-3)
    model['distiller']['distill_losses']['loss_l2']['type'] = 'KDLoss'
    also = schedule(key='tau')
    also['schedules'].append(dict(loss='*', type='stop', begin=1))
    follow = Follow()
    runner = toy_runner(tmp_path, model, [dict(type=HOOK), also, follow])
    runner.train()
    assert runner.model.distiller.distill_losses['loss_l2'].tau == 2
    assert follow.weights == pytest.approx([1e-3] * 9 + [1e-2] * 11)
    assert 'stays' not in capsys.readouterr().out


def test_a_record_that_is_overwritten_is_refused(digits, tmp_path):
    """ResNet's in-place ReLUs overwrite what they get."""
    cfg = config(digits, tmp_path, 1)
    before = dict(type='ModuleOutputs', source='backbone.layer4.1.bn2')
    distiller = cfg.model.distiller
    distiller.student_recorders.fc = before
    distiller.teacher_recorders.fc = before
    distiller.distill_losses.loss_kd = dict(type='kdvit_mm.ATLoss')
    with pytest.raises(ValueError, match='bn2" is overwritten in place'):
        run(cfg)


def test_chosen_levels_measure_gradients_themselves(tmp_path):
    recorder = dict(rec=dict(type='FPNLevelSelection', source='neck'))
    loss = dict(
        type='SelectedLevelsLoss',
        selector=dict(type='AllLevels'),
        loss=dict(type='CWDLoss'),
        num_levels=5,
    )
    config = distiller('neck', 0)
    config.student_recorders = config.teacher_recorders = recorder
    config.distill_losses = dict(loss_0=loss)
    runner = runner_of(algorithm(distiller=config), tmp_path, images())
    with pytest.raises(ValueError, match='SelectedLevelsLoss measures'):
        runner.train()


def test_a_gradient_that_does_not_arrive_leaves_the_weight(tmp_path, capsys):
    """CWD has none on maps of one place."""
    runner = runner_of(
        algorithm(),
        tmp_path,
        [dict(s, inputs=s['inputs'][:, :64, :64]) for s in images()],
        interval=1,
        losses=['loss_2', 'loss_4'],
    )
    runner.train()
    losses = runner.model.distiller.distill_losses
    assert losses['loss_2'].loss_weight != 1
    assert losses['loss_4'].loss_weight == 1
    assert capsys.readouterr().out.count('the weight of loss_4 stays') == 1
