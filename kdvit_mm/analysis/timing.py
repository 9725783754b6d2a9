"""Times training steps in turn and measures the memory that they take."""

import gc
import time
from collections.abc import Callable, Mapping

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import set_random_seed
from mmengine.runner.checkpoint import _load_checkpoint

from kdvit_mm.analysis.configs import (
    build_train_loader,
    first_batch,
    model_config,
)


def time_in_turn(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Times every step once a round.

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
