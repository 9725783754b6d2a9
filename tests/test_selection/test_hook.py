"""Level selection in whole trainings with real runners, on CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kdvit_mm.selection import LevelSelectionHook
from kdvit_mm.selection.controller import find_controller
from kdvit_mm.visualization import read_scalars
from tests.test_engine.test_training import (
    PLAIN,
    assert_same,
    read_config,
    train,
)

RL = 'rl_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96'


def config(
    data: Path,
    work_dir: Path,
    steps: int = 2,
    hook: dict[str, Any] | None = None,
    **loss: Any,
) -> Config:
    """The demo's config with four iterations an epoch."""
    cfg = read_config(RL, data, work_dir, steps)
    cfg.train_cfg.val_interval = 100
    # One of its own, or it would go on writing to the last test's folder.
    cfg.visualizer.name = str(work_dir)
    cfg.custom_hooks[-1].update(
        dict(
            warmup=0,
            policy=0,
            update_interval=2,
            probe_interval=0,
            probe_dataloader=None,
        )
        | (hook or {})
    )
    cfg.model.distiller.distill_losses.loss_levels.update(loss)
    return cfg


def run(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def selector(runner: Runner) -> torch.nn.Module:
    return find_controller(runner.model).selector


def lines(cfg: Config) -> list[dict]:
    text = Path(cfg.work_dir, 'levels.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_phases_follow_each_other(digits, tmp_path):
    cfg = config(
        digits, tmp_path / 'phases', 3, dict(warmup=1, policy=1, dump=True)
    )
    runner = run(cfg)
    dumped = lines(cfg)
    assert len(dumped) == 3 * 16
    for line in dumped:
        if line['iter'] < 8:
            assert line['applied'] == [1] * 5
        else:
            assert line['applied'] == line['levels']
        for chosen, quality in zip(
            line['applied'], line['quality'], strict=True
        ):
            # A 1 x 1 map has a gradient of 0 in CWD, which is known too.
            assert (quality is not None) == bool(chosen)
    joint = [line for line in dumped if line['iter'] >= 8]
    assert any(sum(line['levels']) < 5 for line in joint)
    assert {line['image'] for line in dumped} == set(range(16))
    assert all(len(line['sizes']) >= 1 for line in dumped)
    # Two updates an epoch, from the second on.
    assert int(selector(runner).updates) == 4


def test_diagnostics_are_logged_and_probes_made(digits, tmp_path):
    cfg = config(
        digits,
        tmp_path / 'log',
        2,
        dict(probe_interval=2),
        grad_norm=dict(alpha=0.5),
    )
    cfg.custom_hooks[-1].probe_dataloader = cfg.train_dataloader
    run(cfg)
    records = read_scalars(cfg.work_dir)
    names = {name for record in records for name in record}
    wanted = {
        'approx_kl', 'clip_fraction', 'cost', 'entropy', 'explained_variance',
        'regret_all', 'regret_fixed', 'regret_policy', 'regret_random',
        'return', 'held_out_regret_policy',
        *(f'selected_{i}' for i in range(5)),
        *(f'weight_{i}' for i in range(5)),
    }  # fmt: skip
    assert {f'levels/{name}' for name in wanted} <= names
    last = records[-2]
    assert 0 < last['levels/cost'] <= 1
    assert last['levels/regret_policy'] >= -1e-6
    weights = [last[f'levels/weight_{i}'] for i in range(5)]
    assert sum(weights) == pytest.approx(5, rel=1e-3)


@pytest.fixture(scope='module')
def first(digits, tmp_path_factory) -> Runner:
    """A run of one epoch."""
    return run(config(digits, tmp_path_factory.mktemp('levels') / 'first', 1))


def test_selector_is_not_the_students_optimisers_business(first):
    own = {id(p) for p in selector(first).parameters()}
    assert own
    held = {
        id(p)
        for group in first.optim_wrapper.param_groups
        for p in group['params']
    }
    assert not own & held
    assert {id(p) for p in first.model.student.parameters()} <= held


@pytest.mark.parametrize('chooser', ['PPOLevels', 'GatedLevels'])
def test_resumed_training_equals_training_straight(chooser, digits, tmp_path):
    def make(name: str) -> Config:
        # The buffer is not empty at the end of an epoch.
        hook = dict(update_interval=3, probe_interval=2)
        cfg = config(digits, tmp_path / name, 2, hook, grad_norm=dict())
        cfg.custom_hooks[-1].probe_dataloader = cfg.train_dataloader
        loss = cfg.model.distiller.distill_losses.loss_levels
        loss.selector = dict(type=chooser, lambda_cost=0.1)
        return cfg

    straight = run(make('straight'))
    cfg = make('halves')
    cfg.custom_hooks.append(dict(type='StopAfter', unit='max_epochs'))
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    cfg = make('halves')
    cfg.resume = True
    cfg.experiment_name = 'second_half'
    resumed = run(cfg)
    first, second = (
        {k: v.nan_to_num() for k, v in r.model.state_dict().items()}
        for r in (straight, resumed)
    )
    assert_same(first, second)
    assert any('.selector.' in key for key in first)
    states = [selector(r).extra_state() for r in (straight, resumed)]
    assert flat(states[0]) == flat(states[1])


def flat(state: Any) -> Any:
    """Tensors as lists, to be compared."""
    if isinstance(state, torch.Tensor):
        return state.nan_to_num(123.0).tolist()
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [flat(value) for value in state]
    return state


def test_weight_zero_trains_the_student_as_if_alone(digits, tmp_path):
    alone = train(read_config(PLAIN['det'], digits, tmp_path / 'alone', 2))
    cfg = config(
        digits, tmp_path / 'zero', 2, dict(probe_interval=2, policy=1)
    )
    cfg.model.distiller.distill_losses.loss_levels.loss.loss_weight = 0.0
    assert_same(alone, train(cfg))


def test_the_measured_reward_is_learned_from(digits, tmp_path):
    reward = dict(type='MeasuredReward')
    hook = dict(probe_interval=2, dump=True)
    cfg = config(digits, tmp_path / 'measured', 1, hook, reward=reward)
    runner = run(cfg)
    known = {line['iter'] for line in lines(cfg) if any_known(line)}
    assert known == {0, 2}
    assert int(selector(runner).updates) == 2
    cfg = config(digits, tmp_path / 'no_probes', 1, reward=reward)
    with pytest.raises(ValueError, match='probe_interval'):
        run(cfg)


def any_known(line: dict) -> bool:
    return any(value is not None for value in line['quality'])


def test_trained_policy_is_replayed_on_a_new_student(first, digits, tmp_path):
    trained = selector(first)
    prefix = 'distiller.distill_losses.loss_levels.controller.selector.'
    frozen = dict(
        type='PPOLevels',
        lambda_cost=0.3,
        frozen=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{first.work_dir}/epoch_1.pth',
            prefix=prefix,
        ),
    )
    cfg = config(digits, tmp_path / 'second', 1)
    cfg.model.distiller.distill_losses.loss_levels.selector = frozen
    replayed = selector(run(cfg))
    for (name, a), b in zip(
        trained.named_parameters(), replayed.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    assert int(replayed.updates) == int(trained.updates)


def test_a_checkpoint_of_other_levels_is_refused(first, digits, tmp_path):
    cfg = config(digits, tmp_path / 'four', 1)
    for side in ('student', 'teacher'):
        recorders = cfg.model.distiller[f'{side}_recorders']
        recorders.pyramid.levels = [0, 1, 2, 3]
    cfg.model.distiller.distill_losses.loss_levels.num_levels = 4
    cfg.load_from = f'{first.work_dir}/epoch_1.pth'
    with pytest.raises(ValueError, match='is not of the 4 levels'):
        run(cfg)


def test_a_model_without_a_selection_is_named(digits, tmp_path):
    cfg = read_config(PLAIN['det'], digits, tmp_path / 'plain', 1)
    cfg.custom_hooks.append(dict(type='kdvit_mm.LevelSelectionHook'))
    with pytest.raises(ValueError, match='0 losses of type SelectedLevels'):
        run(cfg)


@pytest.mark.parametrize('options', [dict(warmup=-1), dict(update_interval=0)])
def test_wrong_hook_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LevelSelectionHook(**options)


def on_two_ranks(folder: Path, configs: list[Config]) -> tuple[list, list]:
    """Trains one after the other; returns what each rank has then."""
    files = [folder / f'{index}.py' for index in range(len(configs))]
    for cfg, file in zip(configs, files, strict=True):
        cfg.dump(file)
    outs = [str(folder / f'rank_{rank}.pth') for rank in range(2)]
    script = str(Path(__file__).with_name('train_on_two_ranks.py'))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, folder / 'store', out, str(rank), *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        for rank, out in enumerate(outs)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=600)
        assert rank.returncode == 0, output[-3000:]
    one, other = (torch.load(out, weights_only=False) for out in outs)
    return one, other


def two_rank_config(digits: Path, work_dir: Path, **chooser: Any) -> Config:
    cfg = config(
        digits,
        work_dir,
        2,
        # Two iterations an epoch: the buffer is not empty at its end.
        dict(probe_interval=1, update_interval=3),
        grad_norm=dict(alpha=0.5),
        connector=dict(
            type='MGDGenerator',
            student_channels=48,
            teacher_channels=48,
            lambda_mgd=0.5,
        ),
    )
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model.distiller.distill_losses.loss_levels.selector = chooser
    return cfg


PPO = dict(type='PPOLevels', lambda_cost=0.5, lr=0.01)


def resumed_config(digits: Path, work_dir: Path, **chooser: Any) -> Config:
    cfg = two_rank_config(digits, work_dir, **chooser)
    cfg.resume = True
    cfg.experiment_name = f'{work_dir.name}_again'
    cfg.visualizer.name = cfg.experiment_name
    return cfg


@pytest.mark.slow
def test_two_ranks_stay_equal_and_resume(digits, tmp_path):
    """With levels that no image of a rank chooses, under DDP and gloo."""
    half = two_rank_config(digits, tmp_path / 'half', **PPO)
    half.custom_hooks.append(dict(type='mmengine.StopInSecondEpoch'))
    random = dict(type='RandomLevels', rate=0.3)
    ranks = on_two_ranks(
        tmp_path,
        [
            two_rank_config(digits, tmp_path / 'straight', **PPO),
            half,
            resumed_config(digits, tmp_path / 'half', **PPO),
            two_rank_config(digits, tmp_path / 'random', **random),
        ],
    )
    for runs in ranks:
        for found in runs:
            # Running statistics of the student's images are each rank's own,
            # and mmengine's checkpoints have the first one's only.
            for key in [k for k in found['student'] if 'running_' in k]:
                del found['student'][key]
        straight, _, resumed, _ = map(flat, runs)
        assert resumed == straight
        assert straight['held'] is False
        assert straight['updates'] == 1
    assert flat(ranks[0]) == flat(ranks[1])
    buffer = saved_buffer(tmp_path / 'half')
    assert len(buffer) == 4, 'two iterations of both ranks'
    assert sum(len(record['quality']) for record in buffer) == 16

    # Alone, with all that both had seen.
    cfg = resumed_config(digits, tmp_path / 'half', **PPO)
    cfg.load_from = str(tmp_path / 'half' / 'epoch_1.pth')
    cfg.experiment_name = cfg.visualizer.name = 'alone'
    alone = selector(run(cfg))
    assert alone.updates == 2


def saved_buffer(work_dir: Path) -> list[dict[str, torch.Tensor]]:
    checkpoint = torch.load(
        work_dir / 'epoch_1.pth', map_location='cpu', weights_only=False
    )
    return checkpoint['level_selection']['selector']['buffer']
