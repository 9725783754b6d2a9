"""Recipes: their mistakes, and real chains of classifiers of 32 px crops."""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from kdvit_mm.datasets.preparation import data_options
from kdvit_mm.engine.recipe import read_recipe
from kdvit_mm.engine.stages import (
    Launcher,
    RecipeError,
    StageFailed,
    check_unchanged,
    run_stages,
)
from kdvit_mm.models.losses import FreeKDLoss

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'train_stages.py'
CONFIGS = ROOT / 'configs' / 'demo'
BIG = CONFIGS / 'resnet18-w0.25_10e_digits-32.py'
SMALL = CONFIGS / 'resnet18-w0.0625_10e_digits-32.py'
KD = CONFIGS / 'kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py'

pytestmark = pytest.mark.usefixtures('forked')


def write(folder: Path, content: object) -> Path:
    file = folder / 'recipe.yml'
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def chain(folder: Path, **needs: str) -> Path:
    """A recipe of configs that hold nothing but what they need."""
    for name, needed in needs.items():
        text = ''.join(f'w{i}="{n}", ' for i, n in enumerate(needed.split()))
        (folder / f'{name}.py').write_text(f'model = dict({text})')
    return write(
        folder, dict(stages={n: dict(config=f'{n}.py') for n in needs})
    )


def names(stages: list) -> list[str]:
    return [stage.name for stage in stages]


def test_each_stage_comes_after_those_that_it_needs(tmp_path):
    recipe = chain(
        tmp_path,
        d='stage://b stage://c',
        b='stage://a',
        c='stage://a x.pth',
        a='',
        e='',
    )
    order = names(read_recipe(recipe, tmp_path))
    assert sorted(order) == ['a', 'b', 'c', 'd', 'e']
    for late, early in ('db', 'dc', 'ba', 'ca'):
        assert order.index(late) > order.index(early)
    assert names(read_recipe(recipe, tmp_path, ['b'])) == ['a', 'b']
    further = tmp_path / 'f.py'
    further.write_text('load_from = "stage://e"')
    (first, last) = read_recipe(recipe, tmp_path, [further])
    assert names([first, last]) == ['e', 'f']
    assert last.folder == tmp_path / 'f'
    assert last.needs['load_from'].stage is first
    # A name or the config of a stage are the same target.
    assert names(read_recipe(recipe, tmp_path, [tmp_path / 'a.py', 'a'])) == [
        'a'
    ]


def test_what_the_runner_does_not_take_needs_nothing(tmp_path):
    recipe = chain(tmp_path, a='')
    (tmp_path / 'a.py').write_text('left_over = "stage://nowhere"')
    (stage,) = read_recipe(recipe, tmp_path)
    assert stage.needs == {}


def stage_of(**entry: object) -> dict:
    return dict(stages=dict(a=dict(config=str(KD)) | entry))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], r'the recipe must be a dict, got \[\]'),
        (dict(), 'the recipe has no key "stages"'),
        (dict(stages={}, seed=0), 'the unknown key "seed"; known are stages'),
        (dict(stages=[]), r'stages must be a dict, got \[\]'),
        (dict(stages=dict(a=None)), 'stages.a must be a dict, got None'),
        (dict(stages=dict(a={})), 'stages.a has no key "config"'),
        (dict(stages={'a/b': {}}), 'stages.a/b is not a name for a folder'),
        (dict(stages={'..': {}}), r'stages.\.\. is not a name for a folder'),
        (stage_of(config='no.py'), r'stages.a.config: there is no file .*no'),
        (
            stage_of(confg='a'),
            'the unknown key "confg"; known are cfg_options',
        ),
        (stage_of(checkpoint='first'), "one of .*'best'.*, got 'first'"),
        (stage_of(checkpoint='best'), 'by one metric in default_hooks'),
        (stage_of(export='yes'), "export must be one of .*, got 'yes'"),
        (stage_of(config=str(SMALL), export=True), 'no model.architecture'),
        (stage_of(cfg_options={'a': {'b': 1}}), 'write dotted keys'),
        (stage_of(cfg_options={'custom_hooks.9.a': 1}), 'cannot be read with'),
        (stage_of(), '"a": model.teacher_ckpt is "stage://resnet18-w0.25_'),
        (
            stage_of(cfg_options={'model.teacher_ckpt': 'stage://a/student'}),
            'does not export its student: give it "export: true"',
        ),
        (
            stage_of(cfg_options={'model.teacher_ckpt': 'stage://a/teacher'}),
            '"stage://a/teacher", but the stages are a',
        ),
        (
            stage_of(cfg_options={'model.teacher_ckpt': 'stage://a'}),
            'stages need each other: a <- a',
        ),
    ],
)
def test_mistakes_in_the_recipe(content, message, tmp_path):
    file = write(tmp_path, content)
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(file, tmp_path / 'out')
    assert str(error.value).startswith(f'{file}: ')
    assert not (tmp_path / 'out').exists()


def test_a_cycle_is_shown(tmp_path):
    recipe = chain(tmp_path, a='stage://c', b='stage://a', c='stage://b')
    with pytest.raises(RecipeError, match=r'(. <- ){3}') as error:
        read_recipe(recipe, tmp_path)
    shown = str(error.value).split(': ')[-1].rstrip('.').split(' <- ')
    # Each is needed by the next.
    needed_by = dict(c='a', a='b', b='c')
    for first, second in pairwise(shown):
        assert needed_by[first] == second


def test_mistakes_in_the_targets(tmp_path):
    recipe = chain(tmp_path, a='')
    with pytest.raises(RecipeError, match='"b" is neither one of the stages'):
        read_recipe(recipe, tmp_path, ['b'])
    (tmp_path / 'other').mkdir()
    second = tmp_path / 'other' / 'a.py'
    second.write_text('')
    with pytest.raises(RecipeError, match='would be a second stage "a"'):
        read_recipe(recipe, tmp_path, [second])
    (tmp_path / 'recipe.yml').write_text('a: [')
    with pytest.raises(RecipeError, match='is not valid YAML'):
        read_recipe(recipe, tmp_path)
    with pytest.raises(RecipeError, match='cannot be read: No such file'):
        read_recipe(tmp_path / 'none.yml', tmp_path)


def test_a_change_is_one_of_all_that_depends_on_it(tmp_path):
    recipe = chain(tmp_path, a='', b='stage://a', c='')
    before = read_recipe(recipe, tmp_path / 'out')
    for stage in before:
        stage.folder.mkdir(parents=True)
        (stage.folder / 'fingerprint').write_text(stage.fingerprint)
    check_unchanged(before)
    changed = yaml.safe_load(recipe.read_text())
    changed['stages']['a']['cfg_options'] = {'model.width': 2}
    write(tmp_path, changed)
    stages = read_recipe(recipe, tmp_path / 'out')
    with pytest.raises(RecipeError) as error:
        run_stages(stages)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ['"a"', '"b"']
    for line, name in zip(lines, 'ab', strict=True):
        assert f'Remove {tmp_path / "out" / name}, or' in line
    # Which of the checkpoints is taken is a change, too.
    changed['stages']['a'] = dict(
        config='a.py',
        cfg_options={'default_hooks.checkpoint.save_best': 'mAP'},
    )
    prints = []
    for keeps in ('last', 'best'):
        changed['stages']['a']['checkpoint'] = keeps
        stages = read_recipe(write(tmp_path, changed), tmp_path / 'out')
        prints.append([stage.fingerprint for stage in stages if stage.needs])
    assert prints[0] != prints[1]


def early(folder: Path, part: str, **hook: object) -> Path:
    """A recipe whose second stage takes an intermediate checkpoint."""
    recipe = chain(folder, teacher='', student=f'stage://teacher/{part}')
    (folder / 'teacher.py').write_text(
        'train_cfg = dict(max_epochs=10, max_iters=900)\n'
        f'default_hooks = dict(checkpoint={hook})'
    )
    return recipe


@pytest.mark.parametrize(
    ('part', 'hook'),
    [
        ('epoch_6', dict(interval=1)),
        ('epoch_6', dict(interval=3)),
        ('epoch_10', dict(interval=3)),
        ('epoch_9', dict(interval=1, max_keep_ckpts=2)),
        ('iter_600', dict(interval=300, by_epoch=False)),
    ],
)
def test_an_intermediate_checkpoint_is_taken(part, hook, tmp_path):
    recipe = early(tmp_path, part, **hook)
    teacher, student = read_recipe(recipe, tmp_path / 'out')
    need = student.needs['model.w0']
    with pytest.raises(StageFailed, match=f'no .*{part}.pth'):
        _ = need.file
    teacher.folder.mkdir(parents=True)
    (teacher.folder / f'{part}.pth').touch()
    assert need.file == str(teacher.folder / f'{part}.pth')


def test_another_epoch_is_another_result(tmp_path):
    prints = []
    for folder, part in (('a', 'epoch_5'), ('b', 'epoch_6'), ('c', 'epoch_5')):
        (tmp_path / folder).mkdir()
        recipe = early(tmp_path / folder, part, interval=1)
        prints.append(read_recipe(recipe, tmp_path / 'out')[1].fingerprint)
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    ('part', 'hook'),
    [
        ('epoch_6', dict(interval=1, max_keep_ckpts=2)),
        ('epoch_6', dict(interval=4)),
        ('epoch_6', dict(interval=300, by_epoch=False)),
        ('epoch_6', dict()),
        ('epoch_12', dict(interval=1)),
        ('iter_600', dict(interval=1)),
    ],
)
def test_a_checkpoint_that_is_not_kept_is_refused(part, hook, tmp_path):
    recipe = early(tmp_path, part, **hook)
    with pytest.raises(RecipeError, match='"teacher" does not keep this che'):
        read_recipe(recipe, tmp_path / 'out')


def test_outside_a_recipe_a_stage_is_refused():
    with pytest.raises(FileNotFoundError) as error:
        load_checkpoint(nn.Linear(1, 1), 'stage://first')
    message = str(error.value)
    assert 'the stage "first" of a recipe' in message
    assert 'tools/train_stages.py RECIPE.yml' in message
    assert '--cfg-options KEY=FILE' in message
    with pytest.raises(FileNotFoundError, match='"prompts" of a recipe'):
        FreeKDLoss([4], prompt_ckpt='stage://prompts')
    cfg = Config.fromfile(KD)
    teacher = f'teacher_ckpt "stage://{BIG.stem}".* of a recipe.*Set model.te'
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        pytest.raises(FileNotFoundError, match=teacher),
    ):
        MODELS.build(cfg.model)


def test_slurm_gets_what_its_script_takes(tmp_path, monkeypatch):
    (tmp_path / 'srun').write_text(
        '#!/bin/sh\nenv | grep KDVIT_MM_PARENT\necho "$@"\nexit 3\n'
    )
    (tmp_path / 'srun').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    (stage,) = read_recipe(chain(tmp_path, a=''), tmp_path / 'out')
    with pytest.raises(StageFailed, match='The stage "a" stopped') as error:
        run_stages([stage], Launcher('slurm', 2, 'big'))
    said = str(error.value).splitlines()[0]
    assert said.startswith('-p big --job-name=a --gres=gpu:2 --ntasks=2')
    assert said.endswith(
        f'{stage.config} --resume --work-dir {stage.folder} --launcher slurm'
    )


def options(config: Path, root: Path, epochs: int, **more: object) -> dict:
    """A short run on small crops."""
    return (
        {
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': epochs,
            'train_dataloader.batch_size': 8,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'default_hooks.logger.interval': 1,
        }
        | data_options(config, str(root))
        | more
    )


@pytest.fixture(scope='module')
def recipe(digits, tmp_path_factory) -> Path:
    """A teacher's best checkpoint, a student and what is made of it."""
    return write(
        tmp_path_factory.mktemp('stages'),
        dict(
            stages=dict(
                tuned=dict(
                    config=str(SMALL),
                    cfg_options=options(
                        SMALL, digits, 1, load_from='stage://distilled/student'
                    ),
                ),
                distilled=dict(
                    config=str(KD),
                    cfg_options=options(KD, digits, 8)
                    | {'model.teacher_ckpt': 'stage://teacher'},
                    export=True,
                ),
                teacher=dict(
                    config=str(BIG),
                    cfg_options=options(BIG, digits, 2)
                    | {
                        'train_cfg.val_interval': 1,
                        'default_hooks.checkpoint.save_best': 'accuracy/top1',
                    },
                    checkpoint='best',
                ),
            )
        ),
    )


def command(recipe: Path, *more: object) -> list[str]:
    out = ['--work-dir', str(recipe.parent / 'out')]
    return [sys.executable, str(TOOL), str(recipe), *out, *map(str, more)]


def run(recipe: Path, *more: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(recipe, *more), capture_output=True, text=True, timeout=300
    )


def kill_at(line: str, *args: object, recipe: Path) -> str:
    """Kills the tool when it has shown a line; returns all that it showed."""
    process = subprocess.Popen(
        command(recipe, *args),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ''
    for text in process.stdout:
        shown += ' '.join(text.split()) + '\n'
        if line in shown:
            break
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, shown
    return shown


def wait_for_lock(folder: Path) -> None:
    """Until what a killed tool has left behind has stopped."""
    end = time.monotonic() + 60
    while subprocess.run(['flock', '-n', folder / 'lock', 'true']).returncode:
        assert time.monotonic() < end
        time.sleep(0.2)


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, map_location='cpu', weights_only=False)[
        'state_dict'
    ]


@pytest.fixture(scope='module')
def finished(recipe) -> Path:
    """The chain, killed in its second stage and started again."""
    out = recipe.parent / 'out'
    shown = kill_at('Epoch(train) [3]', recipe=recipe)
    assert '== stage 1 of 3: teacher\n' in shown
    assert '== stage 2 of 3: distilled\n' in shown
    assert not (out / 'distilled' / 'finished').exists()
    wait_for_lock(out / 'distilled')
    trained = (out / 'teacher' / 'epoch_2.pth').stat().st_mtime_ns
    done = run(recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = ' '.join(done.stdout.split())
    assert '== stage 1 of 3: teacher, finished before' in shown
    assert '== stage 2 of 3: distilled == ' not in shown
    assert 'Epoch(train) [1]' in shown.split('3 of 3: tuned')[1]
    assert 'Epoch(train) [1]' not in shown.split('3 of 3: tuned')[0]
    assert (out / 'teacher' / 'epoch_2.pth').stat().st_mtime_ns == trained
    log = (out / 'distilled' / 'output.log').read_text()
    assert 'Stopped by SIGTERM' in log and 'resumed epoch: ' in log
    return out


@pytest.mark.slow
def test_a_killed_chain_goes_on_in_its_second_stage(finished):
    (best,) = (finished / 'teacher').glob('best_*.pth')
    for log in sorted((finished / 'distilled').glob('*/vis_data/config.py')):
        assert Config.fromfile(log).model.teacher_ckpt == str(best)
    last = weights(finished / 'distilled' / 'epoch_8.pth')
    student = weights(finished / 'distilled' / 'student.pth')
    for key, value in student.items():
        assert torch.equal(value, last[f'architecture.{key}'])
    (used,) = (finished / 'tuned').glob('*/vis_data/config.py')
    assert Config.fromfile(used).load_from == str(
        finished / 'distilled' / 'student.pth'
    )


def snapshot(folder: Path) -> dict[Path, int]:
    files = [file for file in folder.rglob('*') if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_nothing_is_run_twice_and_no_change_is_run(finished, recipe):
    before = snapshot(finished)
    done = run(recipe)
    assert done.returncode == 0 and done.stdout.count('finished before') == 3
    assert f'tuned has left {finished}/tuned/epoch_1.pth' in done.stdout
    content = yaml.safe_load(recipe.read_text())
    stages = content['stages']
    stages['distilled']['cfg_options']['train_cfg.max_epochs'] = 9
    changed = recipe.with_name('changed.yml')
    changed.write_text(yaml.safe_dump(content))
    done = run(changed)
    assert done.returncode == 2 and not done.stdout
    assert '"distilled" was run with another' in done.stderr
    assert '"tuned" was run with another' in done.stderr
    assert '"teacher"' not in done.stderr
    stages['teacher']['config'] = 'no.py'
    changed.write_text(yaml.safe_dump(content))
    done = run(changed)
    assert done.returncode == 2 and 'there is no file' in done.stderr
    assert snapshot(finished) == before


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on(finished, recipe, monkeypatch):
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(listener.getsockname()[1]))
    bin_folder = Path(sys.executable).parent
    monkeypatch.setenv('PATH', f'{bin_folder}:{os.environ["PATH"]}')
    content = yaml.safe_load(recipe.read_text())
    content['stages']['spread'] = content['stages'].pop('distilled')
    del content['stages']['tuned']
    spread = recipe.with_name('spread.yml')
    spread.write_text(yaml.safe_dump(content))
    launcher = ('--launcher', 'pytorch', '--gpus', 2)
    shown = kill_at('Epoch(train) [2]', *launcher, recipe=spread)
    assert '== stage 1 of 2: teacher, finished before' in shown
    wait_for_lock(finished / 'spread')
    done = run(spread, *launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (finished / 'spread' / 'output.log').read_text()
    assert 'Distributed launcher: pytorch' in log
    assert 'GPU number: 2' in log or 'world_size' in log.lower()
    assert 'resumed epoch: ' in log
    assert (finished / 'spread' / 'student.pth').is_file()
