"""Examines a config: builds it, looks at a batch, trains a few steps."""

from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.distillers import ConfigurableDistiller

from kdvit_mm.analysis.configs import (
    ConfigError,
    build_algorithm,
    build_train_loader,
    explained,
    first_batch,
)
from kdvit_mm.analysis.doctor.cache import caches_elsewhere, examine_caches
from kdvit_mm.analysis.doctor.findings import Findings
from kdvit_mm.analysis.doctor.losses import examine_mappings, examine_step
from kdvit_mm.analysis.doctor.teacher import (
    compare_with_fresh,
    examine_teacher,
    examine_teacher_setup,
    examine_weights,
)
from kdvit_mm.analysis.rehearsal import Rehearsal, StepError, rehearsing


def diagnose(
    config: str,
    cfg_options: dict[str, Any] | None = None,
    depth: int = 2,
    device: str | None = None,
) -> Findings:
    """Builds what a config describes and trains a few steps.

    Args:
        config (str): Path of the config.
        cfg_options (dict[str, Any] | None): Changes to the config. Defaults
            to None.
        depth (int): Levels of nested modules to list. Defaults to 2.
        device (str | None): Where to run. Defaults to None, where training
            would.

    Returns:
        Findings: What was found; it never raises for a mistake in the config.
    """
    findings = Findings()
    try:
        with explained('The config cannot be read'):
            cfg = Config.fromfile(config)
            cfg.merge_from_dict(cfg_options or {})
        scope = cfg.get('default_scope') or 'mmengine'
        with (
            DefaultScope.overwrite_default_scope(scope),
            caches_elsewhere(cfg) as folders,
        ):
            _examine(findings, cfg, depth, device, folders)
    except ConfigError as reason:
        findings.errors += reason.args
    return findings


def _examine(
    findings: Findings,
    cfg: Config,
    depth: int,
    device: str | None,
    cache_folders: list[str],
) -> None:
    seed = cfg.get('randomness', {}).get('seed') or 0
    set_random_seed(seed)
    model = build_algorithm(cfg)
    known = isinstance(model, SingleTeacherDistill) and isinstance(
        model.distiller, ConfigurableDistiller
    )
    if known:
        examine_mappings(findings, model.distiller)
    else:
        findings.warnings.append(
            'The doctor examines SingleTeacherDistill and its subclasses '
            'with a ConfigurableDistiller. Of this '
            f'{type(model).__name__} it only says whether it trains.'
        )
    if device is not None:
        _leave_amp_out(findings, cfg, device)
    loader = build_train_loader(cfg, seed)
    batch = first_batch(loader)
    with rehearsing(cfg, model, loader, device) as runner:
        findings.errors += runner.problems
        runner.load_or_resume()
        suspected = len(findings.errors)
        if known:
            examine_weights(findings, cfg, model)
            examine_teacher_setup(findings, model)
            try:
                examine_batch(findings, cfg, model, batch, depth)
                if cache_folders:
                    examine_caches(findings, model, loader, cache_folders)
            except ConfigError as reason:
                findings.errors += reason.args
        examine_training(findings, runner, suspected)


def _leave_amp_out(findings: Findings, cfg: Config, device: str) -> None:
    """Mixed precision works on no other device than the runner's own."""
    wrapper = cfg.get('optim_wrapper') or {}
    kind = str(wrapper.get('type'))
    if 'AmpOptimWrapper' in kind and not get_device().startswith(device[:3]):
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper['type'] = 'OptimWrapper'
        findings.warnings.append(
            f'optim_wrapper.type "{kind}" trains in mixed precision, which '
            f'this examination on "{device}" leaves out.'
        )


def examine_batch(
    findings: Findings,
    cfg: Config,
    model: SingleTeacherDistill,
    batch: Any,
    depth: int,
) -> None:
    """Runs teacher, fresh models and student, each on a copy of the batch."""
    with explained('The data_preprocessor fails', locate=True):
        data = model.data_preprocessor(batch, True)
    # The teacher first: a lean teacher is rewritten in its first step.
    findings.teacher = examine_teacher(findings, model.teacher, data, depth)
    compare_with_fresh(findings, cfg, data)
    examine_step(findings, model, data, depth)
    assert findings.student is not None
    if findings.student.params > findings.teacher.params:
        findings.warnings.append(
            f'The student has more parameters ({findings.student.params:,}) '
            f'than the teacher ({findings.teacher.params:,}). Are '
            'model.architecture and model.teacher swapped?'
        )


def examine_training(
    findings: Findings, runner: Rehearsal, suspected: int
) -> None:
    """Trains a few steps, which alone decides whether the config can train.

    Args:
        findings (Findings): Receives what fails.
        runner (Rehearsal): The runner.
        suspected (int): Index of the first error that the examination of the
            batch found. These explain why a step fails; if none does, they
            become warnings.
    """
    runner.model.zero_grad()
    try:
        runner.rehearse()
    except StepError as reason:
        if not findings.errors[suspected:]:
            findings.errors += reason.args
    except ConfigError as reason:
        findings.errors += reason.args
    else:
        findings.warnings += findings.errors[suspected:]
        del findings.errors[suspected:]
