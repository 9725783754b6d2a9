"""Times training steps in turn and measures the memory that they take."""

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
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
    first_batch,
    model_config,
)
from kdvit_mm.benchmark.cells import Cell
from kdvit_mm.benchmark.table import Line, Table
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
    cfg: Config, checkpoint: str, device: str
) -> Callable[[], None]:
    """Builds the model of a config and a step of its training.

    Args:
        cfg (Config): The config.
        checkpoint (str): A checkpoint of its training: a trained policy
            chooses other levels than a fresh one.
        device (str): Where to run.

    Returns:
        Callable[[], None]: A whole training step, with the config's optimiser
        wrapper, on the first batch of its training data. Hooks are not part
        of it.

    Raises:
        ConfigError: If the config gives no batch.
    """
    seed = cfg.randomness.seed
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        set_random_seed(seed)
        model = MODELS.build(model_config(cfg))
        model.init_weights()
        # Without the teacher, which is not in it.
        state = _load_checkpoint(
            checkpoint, map_location='cpu', logger='silent'
        )
        model.load_state_dict(state['state_dict'], strict=False)
        model.to(device).train()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        batch = first_batch(build_train_loader(cfg, seed))

    def step() -> None:
        with DefaultScope.overwrite_default_scope(scope):
            model.train_step(batch, optim_wrapper)

    return step


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


def measure(table: Table, cells: list[Cell], rounds: int, file: Path) -> None:
    """Measures the training steps of all rows that have a result.

    Args:
        table (Table): The table.
        cells (list[Cell]): All of its cells.
        rounds (int): Rounds in which the rows are measured in turn.
        file (Path): Where the measurement is saved, and not made again if it
            is of the same rows.
    """
    first = {
        row.name: next(c for c in cells if c.name == row.name and c.result)
        for row in table.rows
        if any(c.name == row.name and c.result for c in cells)
    }
    prints = {name: cell.fingerprint for name, cell in first.items()}
    saved = json.loads(file.read_text()) if file.is_file() else {}
    if saved.get('fingerprints') == prints and saved['rounds'] == rounds:
        return
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    print_log(f'Measuring {len(first)} training steps in turn.')
    MMLogger.get_current_instance().setLevel('WARNING')
    steps = {
        name: build_training_step(
            read(cell.config, cell.all_options()), cell.checkpoint, device
        )
        for name, cell in first.items()
    }
    timing = {
        'seconds': time_in_turn(steps, rounds, device),
        'memory': {
            name: tensor_memory(step, device) for name, step in steps.items()
        },
        'rounds': rounds,
        'device': device,
        'threads': torch.get_num_threads(),
        'machine': describe_machine(),
        'fingerprints': prints,
    }
    file.write_text(json.dumps(timing, indent=2))


def add_timing(table: Table, lines: list[Line], timing: dict) -> None:
    """Sets step times, relative to the row compared with, and memory."""
    seconds = timing['seconds']
    for line in lines:
        line.step_memory = timing['memory'].get(line.name)
        if line.name in seconds:
            base = seconds.get(line.against or line.name)
            if base:
                line.step_ratio = median(
                    own / other
                    for own, other in zip(
                        seconds[line.name], base, strict=True
                    )
                )
