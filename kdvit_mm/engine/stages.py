"""Training runs whose configs name each other's checkpoints."""

import argparse
import copy
import fcntl
import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from kdvit_mm.models.utils.dotted_keys import replace_prefix
from kdvit_mm.processes import end_children, start_child

#: What stands before the name of a stage in place of a checkpoint.
SCHEME = 'stage://'
#: What follows the name where the exported student is meant.
STUDENT = 'student'
#: What follows it where the checkpoint of an epoch or iteration is meant.
EARLY = re.compile(r'(epoch|iter)_(\d+)')
PACKAGE = Path(__file__).resolve().parents[1]
MIM = PACKAGE / '.mim'
#: The folder that has the tools: the checkout's, or the one for mim.
ROOT = (MIM / 'tools').resolve().parent if MIM.is_dir() else PACKAGE.parent
TOOLS = ROOT / 'tools'
# Hooks that change nothing of a result.
WATCHING = {'kdvit_mm.DistillWatchHook'}
POLL_SECONDS = 0.2
SHOWN_LINES = 15


class RecipeError(ValueError):
    """A mistake in a file that describes runs, explained for its author."""


class StageFailed(RuntimeError):
    """A stage failed; the message is for the user."""


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_stage(filename: str, map_location: Any = None) -> NoReturn:
    """Refuses a stage's name in the place of a checkpoint.

    Args:
        filename (str): What the config names.
        map_location (Any): As the loaders of other schemes have it. Defaults
            to None.

    Raises:
        FileNotFoundError: Always.
    """
    name = filename.removeprefix(SCHEME)
    raise FileNotFoundError(
        f'"{filename}" stands for the checkpoint of the stage "{name}" of a '
        'recipe: run the recipe, "python tools/train_stages.py RECIPE.yml '
        'CONFIG.py", or set the key that has this value to a file, '
        '"--cfg-options KEY=FILE"'
    )


@dataclass(frozen=True)
class Launcher:
    """How the processes of a training are started.

    Attributes:
        kind (str): 'none' for a single process, 'pytorch' for
            ``tools/dist_train.sh`` or 'slurm' for ``tools/slurm_train.sh``.
            Defaults to 'none'.
        gpus (int): Number of processes with a launcher. Defaults to 1.
        partition (str): Slurm's partition. Defaults to ''.
    """

    kind: str = 'none'
    gpus: int = 1
    partition: str = ''

    def command(self, name: str, config: Path) -> list[str]:
        """The command that trains a config, without options.

        Args:
            name (str): Name of the job.
            config (Path): The config.

        Returns:
            list[str]: Program and arguments.
        """
        if self.kind == 'pytorch':
            script = [TOOLS / 'dist_train.sh', config, self.gpus]
        elif self.kind == 'slurm':
            script = [
                'env', f'GPUS={self.gpus}', TOOLS / 'slurm_train.sh',
                self.partition, name, config,
            ]  # fmt: skip
        else:
            script = [sys.executable, TOOLS / 'train.py', config]
        return [str(part) for part in script]


LOCAL = Launcher()


class Training(NamedTuple):
    """A process that trains a stage, and what keeps others from it."""

    process: subprocess.Popen
    lock: IO


class Need(NamedTuple):
    """What a stage needs of an earlier one.

    Attributes:
        stage (Stage): The earlier stage.
        part (str): 'student' for its exported student, such as 'epoch_5' for
            an intermediate checkpoint. Defaults to '', the checkpoint that it
            leaves.
    """

    stage: 'Stage'
    part: str = ''

    @property
    def file(self) -> str:
        """The checkpoint."""
        if self.part == STUDENT:
            return str(self.stage.student_file)
        if self.part:
            return self.stage.early_checkpoint(self.part)
        return self.stage.checkpoint

    @property
    def fingerprint(self) -> str:
        """Stands for the checkpoint before it is there."""
        kinds = [self.part] if self.part else []
        if self.stage.keeps == 'best' and not EARLY.fullmatch(self.part):
            kinds.insert(0, 'best')
        return ':'.join([self.stage.fingerprint, *kinds])


@dataclass(eq=False)
class Stage:
    """A training run.

    Attributes:
        name (str): Its name.
        config (Path): Its config.
        folder (Path): Its work directory.
        options (dict[str, Any]): Config options. Defaults to none.
        data (dict[str, str]): Config options that say where the data lie,
            which is not part of the fingerprint. Defaults to none.
        keeps (str): The checkpoint that it leaves, the 'last' or the 'best'.
            Defaults to 'last'.
        exports (bool): Whether the student is taken out of it. Defaults to
            False.
        needs (dict[str, Need]): What config keys need of earlier stages; set
            by :meth:`connect`.
    """

    name: str
    config: Path
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    keeps: str = 'last'
    exports: bool = False
    needs: dict[str, Need] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def connect(self, stages: Mapping[str, 'Stage']) -> None:
        """Finds the stages whose checkpoints the config names.

        Args:
            stages (Mapping[str, Stage]): All that it may name.

        Raises:
            RecipeError: If it names another, a student that is not exported,
                or an intermediate checkpoint that is not kept.
        """
        for key, named in find_named(read(self.config, self.options)).items():
            name, _, part = named.partition('/')
            where = f'"{self}": {key} is "{SCHEME}{named}", but'
            early = EARLY.fullmatch(part)
            if name not in stages or not (part in ('', STUDENT) or early):
                raise RecipeError(
                    f'{where} the stages are {", ".join(stages)}. Add the '
                    "stage, or set the key to a file in this stage's options."
                )
            stage = stages[name]
            if part == STUDENT and not stage.exports:
                raise RecipeError(
                    f'{where} "{name}" does not export its student: give it '
                    '"export: true".'
                )
            if early and int(early[2]) not in stage.kept(early[1]):
                raise RecipeError(
                    f'{where} "{name}" does not keep this checkpoint: set '
                    'default_hooks.checkpoint.interval and '
                    'default_hooks.checkpoint.max_keep_ckpts (-1 for all) in '
                    'its cfg_options.'
                )
            self.needs[key] = Need(stage, part)

    def kept(self, unit: str) -> set[int]:
        """Finds the intermediate checkpoints that are there at its end.

        Args:
            unit (str): What they are counted in, 'epoch' or 'iter'.

        Returns:
            set[int]: Their numbers, as the names of the files have them.
        """
        cfg = read(self.config, self.options)
        hooks = cfg.get('default_hooks') or {}
        hook = {'interval': -1, 'by_epoch': True, 'max_keep_ckpts': -1}
        hook |= hooks.get('checkpoint') or {}
        last = (cfg.get('train_cfg') or {}).get(f'max_{unit}s', 0)
        if hook['interval'] < 1 or hook['by_epoch'] != (unit == 'epoch'):
            return set()
        saved = sorted(
            {*range(hook['interval'], last, hook['interval']), last}
        )
        number = hook['max_keep_ckpts']
        return {*(saved[-number:] if number > 0 else saved)}

    @property
    def checkpoint(self) -> str:
        """The checkpoint that it leaves, wherever its folder has been moved.

        Raises:
            StageFailed: If there is none.
        """
        if self.keeps == 'best':
            found = [*self.folder.glob('best_*.pth')]
        else:
            last = self.folder / 'last_checkpoint'
            named = [last.read_text().strip()] if last.is_file() else []
            found = [self.folder / Path(name).name for name in named]
        if len(found) != 1 or not found[0].is_file():
            raise StageFailed(
                f'"{self}" has left no {self.keeps} checkpoint in '
                f'{self.folder}. Look at default_hooks.checkpoint of its '
                'config; if the file was removed, remove the folder, too.'
            )
        return str(found[0])

    def early_checkpoint(self, name: str) -> str:
        """An intermediate checkpoint.

        Args:
            name (str): Such as 'epoch_5'.

        Raises:
            StageFailed: If it is not there.
        """
        file = self.folder / f'{name}.pth'
        if not file.is_file():
            raise StageFailed(
                f'"{self}" has left no {file}. If the file was removed, '
                'remove the folder, too.'
            )
        return str(file)

    @property
    def student_file(self) -> Path:
        """Where its student is once it is exported."""
        return self.folder / 'student.pth'

    @property
    def finished(self) -> bool:
        """Whether it need not be run."""
        exported = not self.exports or self.student_file.is_file()
        return exported and (self.folder / 'finished').is_file()

    def all_options(self) -> dict[str, Any]:
        """Its config options, with files in place of stages."""
        needed = {key: need.file for key, need in self.needs.items()}
        return self.options | self.data | needed

    def content(self) -> dict[str, Any]:
        """All that its result depends on, on any machine."""
        needed = {key: need.fingerprint for key, need in self.needs.items()}
        content = read(self.config, self.options | needed).to_dict()
        hooks = content.pop('custom_hooks', None) or []
        hooks = [hook for hook in hooks if hook.get('type') not in WATCHING]
        return content | ({'custom_hooks': hooks} if hooks else {})

    @cached_property
    def fingerprint(self) -> str:
        """Stands for :meth:`content`."""
        text = json.dumps(self.content(), sort_keys=True, default=str)
        for folder in (ROOT, Path.cwd()):
            text = text.replace(f'{folder}/', '')
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def changed(self) -> bool:
        """Whether its folder holds the run of another content."""
        file = self.folder / 'fingerprint'
        return file.is_file() and file.read_text() != self.fingerprint

    def command(self, launcher: Launcher) -> list[str]:
        """The process that trains it, or goes on training it."""
        command = launcher.command(self.name, self.config)
        return [*command, '--resume', *self.arguments()]

    def arguments(self) -> list[str]:
        """Its folder and options on a tool's command line."""
        options = write_options(self.all_options())
        return [
            '--work-dir', str(self.folder),
            *(['--cfg-options', *options] if options else []),
        ]  # fmt: skip

    def start(
        self, launcher: Launcher = LOCAL, env: dict[str, str] | None = None
    ) -> Training | None:
        """Starts its process, whose output goes to ``output.log``.

        Args:
            launcher (Launcher): How it is started. Defaults to a single
                process.
            env (dict[str, str] | None): Its environment. Defaults to None,
                that of this process.

        Returns:
            Training | None: None if another process trains it, or just did.
        """
        command = self.command(launcher)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / 'lock').open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        if self.finished:
            lock.close()
            return None
        (self.folder / 'fingerprint').write_text(self.fingerprint)
        with (self.folder / 'output.log').open('a') as output:
            process = start_child(
                command,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Should this process be killed, its orphan keeps the lock for
                # as long as it takes it to stop.
                pass_fds=[lock.fileno()],
            )
        return Training(process, lock)

    def last_lines(self) -> str:
        """The end of its process's output."""
        lines = (self.folder / 'output.log').read_text().splitlines()
        return '\n'.join(lines[-SHOWN_LINES:])

    def adopt(self, checkpoint: Path) -> None:
        """Takes a checkpoint of the same content in place of a training.

        Args:
            checkpoint (Path): The checkpoint, which is copied.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        copied = shutil.copy(checkpoint, self.folder)
        (self.folder / 'last_checkpoint').write_text(str(copied))
        (self.folder / 'fingerprint').write_text(self.fingerprint)
        (self.folder / 'finished').touch()

    def finish(self) -> None:
        """Exports its student, if it is to, and notes that it is finished.

        Raises:
            StageFailed: If there is no checkpoint or it has no student.
        """
        checkpoint = self.checkpoint
        if self.exports:
            tool = TOOLS / 'model_converters' / 'export_student.py'
            done = subprocess.run(
                [sys.executable, tool, checkpoint, self.student_file],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise StageFailed(
                    f'The student of "{self}" cannot be exported: '
                    f'{done.stderr.strip()}'
                )
        (self.folder / 'finished').touch()


@cache
def _read_file(config: Path) -> Config:
    return Config.fromfile(config)


def read(config: Path, options: Mapping[str, Any]) -> Config:
    """Reads a config as the tools do.

    Args:
        config (Path): The config.
        options (Mapping[str, Any]): Config options.

    Returns:
        Config: A copy of it with the options.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction)
    cfg = copy.deepcopy(_read_file(config))
    args = parser.parse_args(['--cfg-options', *write_options(options)])
    cfg.merge_from_dict(args.cfg_options)
    return cfg


def write_options(options: Mapping[str, Any]) -> list[str]:
    """Writes options as ``--cfg-options`` reads them.

    Args:
        options (Mapping[str, Any]): Values by dotted keys.

    Returns:
        list[str]: Such as ``['a.b=[1,2]']``.
    """

    def write(value: Any) -> str:
        if isinstance(value, list):
            return f'[{",".join(map(write, value))}]'
        return str(value)

    return [f'{key}={write(value)}' for key, value in options.items()]


def find_named(cfg: Config) -> dict[str, str]:
    """Finds the stages that a config names in what the runner takes.

    Args:
        cfg (Config): The config.

    Returns:
        dict[str, str]: What follows ``stage://`` by dotted keys.
    """
    taken = inspect.signature(Runner).parameters
    content = {k: v for k, v in cfg.to_dict().items() if k in taken}
    return replace_prefix(content, SCHEME, '')


def check_unchanged(stages: Iterable[Stage]) -> None:
    """Refuses what another config or other options have left in folders.

    Args:
        stages (Iterable[Stage]): The stages.

    Raises:
        RecipeError: If a stage has changed since it was run.
    """
    changed = [
        f'"{stage}" was run with another config, other options or after other '
        f'stages than it has now. Remove {stage.folder}, or choose another '
        'output folder.'
        for stage in stages
        if stage.changed
    ]
    if changed:
        raise RecipeError('\n'.join(changed))


def run_stages(stages: Sequence[Stage], launcher: Launcher = LOCAL) -> None:
    """Runs stages one after another, except those that are finished.

    Args:
        stages (Sequence[Stage]): The stages, each after those that it needs.
        launcher (Launcher): How each is started. Defaults to a single
            process.

    Raises:
        RecipeError: If a stage has changed since it was run; nothing is run.
        StageFailed: If a stage stops before its end.
    """
    check_unchanged(stages)
    for number, stage in enumerate(stages, 1):
        title = f'\n== stage {number} of {len(stages)}: {stage}'
        if stage.finished:
            print_log(f'{title}, finished before')
        else:
            print_log(title)
            _run(stage, launcher)


def _run(stage: Stage, launcher: Launcher) -> None:
    log = stage.folder / 'output.log'
    written = log.stat().st_size if log.is_file() else 0
    training = stage.start(launcher)
    if training is None:
        raise StageFailed(
            f'Another process trains "{stage}" in {stage.folder}. Wait for '
            'its end and give the same command again.'
        )
    try:
        with log.open() as output:
            output.seek(written)
            for progress in _follow(output, training.process):
                print_log(progress)
        if training.process.returncode:
            raise StageFailed(
                f'{stage.last_lines()}\nThe stage "{stage}" stopped; the '
                f'lines above, or more of {log}, say why. The same command '
                'goes on there.'
            )
        stage.finish()
    finally:
        end_children(training.process)
        training.lock.close()


def _follow(output: IO, process: subprocess.Popen) -> Iterator[str]:
    """Progress and warnings in a log, as long as a process writes it."""
    running = True
    while running:
        running = process.poll() is None
        for line in output:
            shown = re.search(
                r' - (?:INFO - (?=Epoch\(|Iter\()|(?=WARNING|ERROR))(.*)', line
            )
            if shown:
                yield shown[1]
        if running:
            time.sleep(POLL_SECONDS)
