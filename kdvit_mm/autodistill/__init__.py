"""Makes a distillation of two plain configs."""

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from kdvit_mm.analysis.configs import (
    ConfigError,
    build_train_loader,
    explained,
    first_batch,
    model_config,
)
from kdvit_mm.analysis.doctor import Findings, build_algorithm
from kdvit_mm.analysis.doctor.losses import examine_step
from kdvit_mm.analysis.rehearsal import rehearsing
from kdvit_mm.autodistill.adapter import PairAdapter
from kdvit_mm.autodistill.probe import (
    TASKS,
    Probe,
    build_probe,
    run_probe,
)
from kdvit_mm.autodistill.text import Expression, format_config
from kdvit_mm.catalog import Method, config_root, methods, procedures
from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.models.utils.random import isolated_rng
from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.models.utils.student_config import is_distillation

__all__ = ['build_distillation']

# Images of the batch that shapes and gradients are learned on.
BATCH = 2
WATCH = {'type': 'kdvit_mm.DistillWatchHook'}
# The first epochs decide about the order of magnitude, so it moves more often
# than once an epoch.
AUTO_WEIGHT: dict[str, Any] = {
    'type': 'kdvit_mm.AutoLossWeightHook',
    'ratio': 0.5,
    'band': 0.1,
    'interval': 50,
}


def build_distillation(
    student: str,
    teacher: str,
    method: str,
    teacher_ckpt: str | None = None,
    auto_weight: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> Config:
    """Makes a distillation of two plain OpenMMLab configs.

    Both models run on one small batch of the student's training data. The
    distiller of ``configs/_base_/distillers`` that the method's metafile names
    is fitted to them, and one training step is tried with it.

    Args:
        student (str): File of the student's config, or a name such as
            ``mmdet::gfl/gfl_r50_fpn_1x_coco.py``.
        teacher (str): The same of the teacher. Of a name, the published
            weights are taken if there is no ``teacher_ckpt``.
        method (str): The method, as its metafile names it, such as ``fgd``.
        teacher_ckpt (str | None): File or URL of the teacher's checkpoint.
            Defaults to None.
        auto_weight (bool): Whether the losses' weights are moved in training,
            by :class:`~kdvit_mm.engine.hooks.AutoLossWeightHook`, from those
            of the paper. Defaults to False.
        cfg_options (Mapping[str, Any] | None): Changes to the config that is
            made, by dotted keys. Defaults to None.
        out (str | Path | None): File that the config is written to. Defaults
            to None, none.

    Returns:
        Config: The config of the distillation.

    Raises:
        ConfigError: If a config cannot be used, the method is not known for
            the models' task or does not fit them, or a step fails. Nothing
            has been written then.
    """
    options = dict(cfg_options or {})
    student_cfg = _read(student, 'student')
    _read(teacher, 'teacher')
    with explained('--cfg-options cannot be applied'):
        student_cfg.merge_from_dict(_without_model(options))
    if not student_cfg.get('train_dataloader'):
        raise ConfigError(
            f'The student\'s config "{student}" has no key '
            '"train_dataloader", so there is nothing to learn from.'
        )
    seed = student_cfg.get('randomness', {}).get('seed') or 0
    scope = student_cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope), isolated_rng(seed):
        probes = (
            build_probe('student', in_own_scope(model_config(student_cfg))),
            build_probe('teacher', resolve_cfg_path({'cfg_path': teacher})),
        )
        found = find_method(method, *probes)
        small = copy.deepcopy(student_cfg)
        small.train_dataloader.batch_size = BATCH
        small.train_dataloader.pop('batch_sampler', None)
        loader = build_train_loader(small, seed)
        batch = first_batch(loader)
        _run(small, probes, loader, batch)
        maker = _Maker(
            found,
            student,
            teacher,
            teacher_ckpt,
            auto_weight,
            student_cfg,
            options,
        )
        maker.fit(*probes)
        maker.try_step(loader, batch)
    return maker.write(out)


def find_method(name: str, student: Probe, teacher: Probe) -> Method:
    """Finds a method for the task of two models.

    Args:
        name (str): Name of the method.
        student (Probe): The student.
        teacher (Probe): The teacher.

    Returns:
        Method: The method.

    Raises:
        ConfigError: If the tasks differ or have no such method, or it is a
            way of training.
    """
    for probe in (student, teacher):
        if probe.task is None:
            raise ConfigError(
                f'The {probe.side} is a {probe.kind}, which extends no class '
                f'of {", ".join(TASKS)}. Take a model of one of these.'
            )
    if student.task != teacher.task:
        raise ConfigError(
            f'The student ({student.kind}) is for {student.task}, the teacher '
            f'({teacher.kind}) for {teacher.task}. Take two models for one '
            'task.'
        )
    known = methods(student.task)
    ways = procedures(student.task)
    if name in ways:
        raise ConfigError(
            f'{ways[name].title} is a way of training that methods go with. '
            'Take a method, and see docs/ways_of_training.md and '
            f'{ways[name].folder / "README.md"} for what it takes.'
        )
    if name in known:
        return known[name]
    others = [task for task in TASKS.values() if name in methods(task)]
    reason = (
        f'The method "{name}" is for {" and ".join(others)}, not for '
        f'{student.task}.'
        if others
        else f'There is no method "{name}".'
    )
    raise ConfigError(
        f'{reason} Methods for {student.task}: {", ".join(known)}.'
    )


def _read(path: str, side: str) -> Config:
    """Reads a plain config with a model."""
    with explained(f'The {side}\'s config "{path}" cannot be read'):
        cfg = get_config(path) if '::' in path else Config.fromfile(path)
    if not cfg.get('model'):
        raise ConfigError(f'The {side}\'s config "{path}" has no key "model".')
    if is_distillation(cfg):
        raise ConfigError(
            f'The {side}\'s config "{path}" is a distillation already. Give '
            f'the plain config of the {side}.'
        )
    return cfg


def _without_model(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are about the student's config.

    Raises:
        ConfigError: If an option is about a model, which has a config.
    """
    for key in options:
        if key.startswith(('model.architecture', 'model.teacher.')):
            raise ConfigError(
                f'--cfg-options {key}: change this in the config of the model '
                'itself.'
            )
    return {
        key: value
        for key, value in options.items()
        if not key.startswith('model.')
    }


def _run(
    cfg: Config, probes: tuple[Probe, Probe], loader: DataLoader, batch: Any
) -> None:
    """Runs both models on the batch as the student is fed with it."""
    student, teacher = probes
    with rehearsing(cfg, student.model, loader, None) as runner:
        with explained("The student's data_preprocessor fails", locate=True):
            data = student.model.data_preprocessor(batch, True)
        student.model.train()
        run_probe(student, data)
        teacher.model.to(runner.model.data_preprocessor.device).eval()
        run_probe(teacher, data)


def _check_alone(content: Config) -> None:
    """Checks that a method is no more than a distiller of single modules.

    Raises:
        ConfigError: If it is; names what else it sets or records.
    """
    more = [
        key
        for key in ('calculate_student_loss', 'preprocessor')
        if key in content
    ]
    more += [
        f'a recorder {recorder.type}'
        for recorder in content.distiller.student_recorders.values()
        if 'source' not in recorder
    ]
    if more:
        raise ConfigError(
            f'It has {" and ".join(more)}, which is not fitted to models. '
            'Write its config as docs/classification.md says.'
        )


class _Maker:
    """Makes the config of a distillation.

    Args:
        method (Method): The method.
        student (str): File or name of the student's config.
        teacher (str): File or name of the teacher's config.
        teacher_ckpt (str | None): The teacher's checkpoint.
        auto_weight (bool): Whether the losses' weights are moved in training.
        student_cfg (Config): The student's config, with the options applied.
        options (Mapping[str, Any]): The options.
    """

    def __init__(
        self,
        method: Method,
        student: str,
        teacher: str,
        teacher_ckpt: str | None,
        auto_weight: bool,
        student_cfg: Config,
        options: Mapping[str, Any],
    ) -> None:
        self.method = method
        self.student = student
        self.teacher = teacher
        self.teacher_ckpt = teacher_ckpt
        self.auto_weight = auto_weight
        self.student_cfg = student_cfg
        self.options = options
        self.base = ''
        self.distiller: dict[str, Any] = {}
        self.comments: dict[tuple[str, ...], str] = {}

    def fit(self, student: Probe, teacher: Probe) -> None:
        """Takes the first of the method's distillers that fits the pair.

        Raises:
            ConfigError: If none does; says why the first one does not.
        """
        reasons = []
        for base in self._bases(student):
            file = config_root() / '_base_' / 'distillers' / f'{base}.py'
            content = Config.fromfile(file)
            try:
                _check_alone(content)
                adapter = PairAdapter(
                    content.distiller.to_dict(), student, teacher
                )
            except ConfigError as error:
                reasons.append(str(error))
                continue
            self.base = base
            self.distiller = adapter.distiller
            self._explain(adapter, student, teacher)
            return
        others = ', '.join(
            name for name in methods(student.task) if name != self.method.name
        )
        raise ConfigError(
            f'{self.method.title} does not fit {student.kind} under '
            f'{teacher.kind}. {reasons[0]}\nOther methods for '
            f'{student.task}: {others}.'
        )

    def _bases(self, student: Probe) -> list[str]:
        """The method's distillers; those of the other detectors last."""
        two_stage = hasattr(student.model, 'roi_head')
        return sorted(
            self.method.distillers,
            key=lambda base: base.endswith('_two_stage') != two_stage,
        )

    def _explain(
        self, adapter: PairAdapter, student: Probe, teacher: Probe
    ) -> None:
        comments = {
            ('_base_',): "Data, schedule and all else that is the student's.",
            ('model', '_delete_'): "In place of the student's model, which is "
            'architecture.',
            ('model', 'type'): 'Runs the teacher without gradient, up to what '
            'is recorded.',
            ('model', 'architecture'): f'The student ({student.kind}), as '
            'its config has it.',
            ('model', 'teacher'): f'The teacher ({teacher.kind}).',
            ('model', 'distiller'): f'{self.method.title}, from configs/_base_'
            f'/distillers/{self.base}.py, fitted to the two.',
            ('custom_imports',): 'Registers what is named kdvit_mm.…',
            ('work_dir',): 'Not this folder: the runner would overwrite this '
            'file.',
        }
        for path, text in adapter.comments.items():
            key = ('model', 'distiller', *path)
            comments[key] = text
        self.comments = comments

    def try_step(self, loader: DataLoader, batch: Any) -> None:
        """Runs a training step of the distillation.

        Args:
            loader (DataLoader): The student's data.
            batch (Any): A batch of it.

        Raises:
            ConfigError: If it fails.
        """
        cfg = self.write(None)
        findings = Findings()
        # As the doctor and a training with this seed build it.
        seed = cfg.get('randomness', {}).get('seed') or 0
        with isolated_rng(seed), _quietly():
            model = build_algorithm(cfg)
        with rehearsing(cfg, model, loader, None):
            with explained('The data_preprocessor fails', locate=True):
                data = model.data_preprocessor(batch, True)
            examine_step(findings, model, data, depth=0)
        if findings.errors:
            raise ConfigError(*findings.errors)

    def write(self, out: str | Path | None) -> Config:
        """Writes the config and reads it.

        Args:
            out (str | Path | None): The file; None for a temporary one.

        Returns:
            Config: The config.
        """
        if out is not None:
            return self._write(Path(out), Path(out).resolve().parent)
        with tempfile.TemporaryDirectory() as folder:
            return self._write(Path(folder, f'{self.method.name}.py'), None)

    def _write(self, file: Path, folder: Path | None) -> Config:
        file.parent.mkdir(parents=True, exist_ok=True)
        base = _seen_from(folder, self.student)
        if '::' not in base and Config._is_lazy_import(self.student):
            # A new-style config cannot be a base as it is.
            base = str(file.with_name('student.py'))
            Config.fromfile(self.student).dump(base)
            base = _seen_from(folder, base)
        file.write_text(self._text(folder, base))
        return Config.fromfile(file)

    def _text(self, folder: Path | None, base: str) -> str:
        values: dict[str, Any] = {'_base_': base, 'model': self._model(folder)}
        comments = dict(self.comments)
        imports = self.student_cfg.get('custom_imports', {}).get('imports', [])
        imports = [imports] if isinstance(imports, str) else imports
        values['custom_imports'] = {
            'imports': [*dict.fromkeys([*imports, 'kdvit_mm'])],
            'allow_failed_imports': False,
        }
        values.update(self._hooks(comments))
        if folder is not None:
            values['work_dir'] = '{{ fileDirname }}/train'
        for key, value in _nested(self.options, self.student_cfg).items():
            values[key] = value
            comments[(key,)] = 'Given by --cfg-options.'
        paper = f', {self.method.paper}' if self.method.paper else ''
        return (
            f'# {self.method.title}{paper}.\n'
            '# Made by tools/distill.py, to be changed as you like. It is '
            'trained with\n# tools/train.py and examined with '
            'tools/analysis/doctor.py.\n\n' + format_config(values, comments)
        )

    def _hooks(
        self, comments: dict[tuple[str, ...], str]
    ) -> dict[str, list[Any]]:
        """Hooks beside the student's, which are commented on."""
        wanted: list[tuple[dict[str, Any], str]] = [
            (
                WATCH,
                'Warns while training of a loss that does nothing or '
                'dominates the task.',
            )
        ]
        if self.auto_weight:
            reason = (
                'Moves each loss_weight, from that above, so that where the '
                'loss reads the student its gradient is about as long as the '
                "task's: its share of the two is ratio, give or take band. "
                'Every interval iterations.'
            )
            wanted.append((AUTO_WEIGHT, reason))
        own = self.student_cfg.get('custom_hooks') or []
        hooks: list[Any] = [Expression('*_base_.custom_hooks')] if own else []
        for hook, reason in wanted:
            if hook not in own:
                comments['custom_hooks', str(len(hooks))] = reason
                hooks.append(hook)
        return {'custom_hooks': hooks} if len(hooks) > bool(own) else {}

    def _model(self, folder: Path | None) -> dict[str, Any]:
        teacher: dict[str, Any] = {'cfg_path': _in_file(folder, self.teacher)}
        model: dict[str, Any] = {
            '_delete_': True,
            '_scope_': 'kdvit_mm',
            'type': 'LeanTeacherDistill',
            'architecture': Expression('_base_.model'),
            'teacher': teacher,
        }
        if self.teacher_ckpt:
            model['teacher_ckpt'] = _in_file(folder, self.teacher_ckpt)
        elif '::' in self.teacher:
            teacher['pretrained'] = True
        cfg = Config({'model': {**model, 'distiller': self.distiller}})
        cfg.merge_from_dict(
            {k: v for k, v in self.options.items() if k.startswith('model.')}
        )
        return cfg.model.to_dict()


@contextmanager
def _quietly() -> Iterator[None]:
    """Leaves out what mmengine says of every weight that is initialised."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_file(folder: Path | None, path: str) -> str:
    """A file, URL or name, as it is written in a config in a folder."""
    seen = _seen_from(folder, path)
    if folder is None or seen == path or os.path.isabs(seen):
        return seen
    return f'{{{{ fileDirname }}}}/{seen}'


def _seen_from(folder: Path | None, path: str) -> str:
    """Path of a file from a folder, absolute from none; others as they are."""
    if not Path(path).is_file():
        return path
    return os.path.relpath(path, folder) if folder else os.path.abspath(path)


def _nested(options: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """Options as a config that inherits from the student's has them."""
    result: dict[str, Any] = {}
    for key in _without_model(options):
        node, value = result, cfg
        *path, last = key.split('.')
        for part in path:
            value = value[part]
            if isinstance(value, (list, tuple)):
                # Lists are replaced as a whole.
                last = part
                break
            node = node.setdefault(part, {})
        else:
            value = value[last]
        node[last] = value
    return result
