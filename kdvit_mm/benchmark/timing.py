"""Times training steps in turn and measures the memory that they take."""

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import set_random_seed
from mmengine.runner.checkpoint import _load_checkpoint

from kdvit_mm.analysis.configs import (
    build_train_loader,
    explained,
    first_batch,
    model_config,
)
from kdvit_mm.benchmark.cells import Cell
from kdvit_mm.benchmark.derived import schedule_length
from kdvit_mm.benchmark.report import Line
from kdvit_mm.benchmark.table import Table, TableError
from kdvit_mm.engine.stages import read


def time_in_turn(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Times every step once per round.

    Whatever else the machine does so hits all of them.

    Args:
        steps (Mapping[str, Callable[[], None]]): Steps by name.
        rounds (int): Number of rounds; one more goes before to warm up.
        device (str): Where they run.

    Returns:
        dict[str, list[float]]: Seconds of every round by name.
    """
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.startswith('cuda'):
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def tensor_memory(step: Callable[[], None], device: str) -> float:
    """Peak of the memory that one step allocates for tensors, in MiB.

    Args:
        step (Callable[[], None]): The step.
        device (str): Where it runs.

    Returns:
        float: The peak above what was allocated before.
    """
    gc.collect()
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, profile_memory=True) as p:
        step()
    held = peak = 0
    for event in p.profiler.kineto_results.events():
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def build_training_step(
    cfg: Config, checkpoint: str | None, device: str
) -> tuple[Callable[[], None], int]:
    """Builds the model of a config and a step of its training.

    Args:
        cfg (Config): The config.
        checkpoint (str | None): A checkpoint of its training, if there is
            one: a trained policy chooses other levels than a fresh one.
        device (str): Where to run.

    Returns:
        tuple[Callable[[], None], int]: A whole training step, with the
        config's optimiser wrapper, on the first batch of its training data,
        and how many its training has. Hooks are not part of a step.

    Raises:
        ConfigError: If the config gives no batch.
    """
    seed = cfg.randomness.seed
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        set_random_seed(seed)
        model = MODELS.build(model_config(cfg))
        model.init_weights()
        if checkpoint:
            # Without the teacher, which is not in it.
            state = _load_checkpoint(
                checkpoint, map_location='cpu', logger='silent'
            )
            model.load_state_dict(state['state_dict'], strict=False)
        model.to(device).train()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        loader = build_train_loader(cfg, seed)
        batch = first_batch(loader)
        key, length = schedule_length(cfg)
        steps = length * (len(loader) if key == 'max_epochs' else 1)

    def step() -> None:
        with DefaultScope.overwrite_default_scope(scope):
            model.train_step(batch, optim_wrapper)

    return step, steps


def describe_machine() -> str:
    """Processor, and GPU if there is one, in words."""
    model = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                model = line.partition(':')[2].strip()
                break
    words = f'{os.cpu_count()} cores of {model}'
    if torch.cuda.is_available():
        words += f', {torch.cuda.get_device_name()}'
    return words


@dataclass(frozen=True)
class StepTime:
    """What was measured of a row's training step.

    Attributes:
        fingerprint (str): Stands for the row's config, without a weight from
            trials.
        seconds (list[float]): Seconds of the step, by round.
        against (list[float]): Those of the row compared with, in the same
            rounds.
        memory (float): MiB that the step allocates for tensors.
        steps (int): How many a training has.
        device (str): Where it ran.
        threads (int): Threads of torch.
        machine (str): Processor, in words.
    """

    fingerprint: str
    seconds: list[float]
    against: list[float]
    memory: float
    steps: int
    device: str
    threads: int
    machine: str

    @property
    def ratio(self) -> float:
        """Time of the step over that of the row compared with."""
        pairs = zip(self.seconds, self.against, strict=True)
        return median(own / other for own, other in pairs)


def read_timing(file: Path) -> dict[str, StepTime]:
    """Reads what has been measured.

    Args:
        file (Path): The file, which need not exist.

    Returns:
        dict[str, StepTime]: By row.

    Raises:
        TableError: If it is no such file.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
        return {name: StepTime(**entry) for name, entry in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise TableError(
            f'{file} holds no step times ({error}). Remove it: they are '
            'measured anew.'
        ) from None


def measure(
    table: Table, cells: list[Cell], rounds: int, file: Path
) -> dict[str, StepTime]:
    """Measures the training steps of rows that have not been measured.

    Each is measured in turn with the row it is compared with. What is in the
    file stays: equal times and the results that rest on it do not change when
    a table gets another row.

    Args:
        table (Table): The table, without weights from trials.
        cells (list[Cell]): All of its cells.
        rounds (int): Rounds in which the rows are measured in turn.
        file (Path): Where the measurements are saved.

    Returns:
        dict[str, StepTime]: All there are now, by row.
    """
    timing = read_timing(file)
    first: dict[str, Cell] = {}
    for cell in cells:
        if all(need.stage.finished for need in cell.needs.values()):
            first.setdefault(cell.name, cell)
    missing = [
        row
        for row in table.rows
        if row.name in first
        and (row.against or row.name) in first
        and (
            row.name not in timing
            or timing[row.name].fingerprint != first[row.name].fingerprint
        )
    ]
    if not missing:
        return timing
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    names = {name for row in missing for name in (row.against, row.name)}
    print_log(f'Measuring {len(names - {None})} training steps in turn.')
    MMLogger.get_current_instance().setLevel('WARNING')
    built = {}
    for name, cell in first.items():
        if name in names:
            with explained(f'The training step of "{name}" cannot be built'):
                built[name] = build_training_step(
                    read(cell.config, cell.all_options()),
                    cell.checkpoint if cell.finished else None,
                    device,
                )
    steps = {name: step for name, (step, _) in built.items()}
    seconds = time_in_turn(steps, rounds, device)
    for row in missing:
        timing[row.name] = StepTime(
            fingerprint=first[row.name].fingerprint,
            seconds=seconds[row.name],
            against=seconds[row.against or row.name],
            memory=tensor_memory(steps[row.name], device),
            steps=built[row.name][1],
            device=device,
            threads=torch.get_num_threads(),
            machine=describe_machine(),
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {name: asdict(entry) for name, entry in timing.items()}
    file.write_text(json.dumps(content, indent=2) + '\n')
    return timing


def add_timing(lines: list[Line], timing: Mapping[str, StepTime]) -> None:
    """Sets step times, relative to the row compared with, and memory.

    Args:
        lines (list[Line]): Lines of the table.
        timing (Mapping[str, StepTime]): What was measured, by row.
    """
    for line in lines:
        if line.name in timing:
            line.step_ratio = timing[line.name].ratio
            line.step_memory = timing[line.name].memory
