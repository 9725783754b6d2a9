"""Parts of a config as the tools that analyse it build them."""

import copy
import re
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from torch.utils.data import DataLoader

from kdvit_mm.models.utils.checkpoint_kind import STUDENT


class ConfigError(ValueError):
    """A config cannot be used.

    Args:
        args (str): Why, and what to change; one text per reason.
    """


@contextmanager
def explained(
    what: str,
    advice: str = '',
    locate: bool = False,
    kind: type[ConfigError] = ConfigError,
) -> Iterator[None]:
    """Turns what fails inside into a :class:`ConfigError`.

    Args:
        what (str): What is being done, to begin the text with.
        advice (str): Where to look, to end the text with. Defaults to ''.
        locate (bool): Whether the text names the line that failed. Defaults
            to False, only where the error says nothing itself.
        kind (type[ConfigError]): What to raise. Defaults to ConfigError.

    Raises:
        ConfigError: If anything fails inside.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        # str(KeyError) is its message in quotes.
        text = (
            str(error.args[0])
            if isinstance(error, KeyError) and error.args
            else str(error)
        )
        if ' ' not in text:
            text = f'{type(error).__name__} {text}'.strip()
            locate = True
        if locate:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            file = Path(frame.filename).name
            text += f' (in {frame.name}, {file}:{frame.lineno})'
        # Some of mmrazor's messages hold the indentation of its source.
        text = re.sub(' {2,}', ' ', text)
        raise kind(f'{what}: {text}{advice}') from error


def model_config(cfg: Config) -> ConfigDict:
    """The model of a config, as the runner builds it.

    Args:
        cfg (Config): The config, with the key 'model'.

    Returns:
        ConfigDict: A copy of it, with the preprocessor of the config's top
        level if it has none of its own.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def build_algorithm(cfg: Config, init_student: bool = True) -> BaseModel:
    """Builds and initialises the model of a distillation as the runner does.

    Args:
        cfg (Config): The config, in whose default scope this has to run.
        init_student (bool): Whether the student is initialised too, which a
            checkpoint loaded afterwards makes needless. Defaults to True.

    Returns:
        BaseModel: The algorithm.

    Raises:
        ConfigError: If the config has no such model, or it cannot be built.
    """
    if 'model' not in cfg:
        raise ConfigError('The config has no key "model".')
    model_cfg = model_config(cfg)
    if 'distiller' not in model_cfg:
        raise ConfigError(
            f'model.type "{model_cfg.get("type")}" is a plain model: it has '
            'no teacher and no distiller. Put it into '
            "model=dict(_scope_='kdvit_mm', type='LeanTeacherDistill', "
            'architecture=dict(...), teacher=dict(...), teacher_ckpt=..., '
            'distiller=dict(...)).'
        )
    with explained('The model cannot be built'):
        model = MODELS.build(model_cfg)
    with explained("The model's weights cannot be initialised"):
        if init_student:
            model.init_weights()
        else:
            model.distiller.init_weights()
            model.teacher.init_weights()
    return model


def load_trained(algorithm: BaseModel, checkpoint: str) -> list[str]:
    """Loads a student, and the distiller as far as the checkpoint has it.

    Args:
        algorithm (BaseModel): The algorithm.
        checkpoint (str): File or URL of a checkpoint of the algorithm or of
            its student alone.

    Returns:
        list[str]: Keys of the distiller that the checkpoint lacks.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it does not fit the student or the distiller.
    """
    loaded = _load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    state = loaded.get('state_dict', loaded)
    state = {key.removeprefix('module.'): x for key, x in state.items()}
    if not any(key.startswith(STUDENT) for key in state):
        state = {STUDENT + key: x for key, x in state.items()}
    try:
        missing, unexpected = algorithm.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit: {error}') from error
    wrong = [
        [key.removeprefix(STUDENT) for key in keys if key.startswith(STUDENT)]
        for keys in (missing, unexpected)
    ]
    if any(wrong):
        raise ValueError(
            f'{checkpoint} does not fit model.architecture '
            f'({type(algorithm.architecture).__name__}): {len(wrong[0])} keys '
            f'missing {wrong[0][:3]}, {len(wrong[1])} unexpected '
            f'{wrong[1][:3]}. Give the config that it was trained with.'
        )
    return [key for key in missing if key.startswith('distiller.')]


def dataloader_config(cfg: Config, split: str) -> ConfigDict:
    """A data loader of a config, without workers.

    Args:
        cfg (Config): The config.
        split (str): 'train', 'val' or 'test'.

    Returns:
        ConfigDict: A copy of it.
    """
    loader = copy.deepcopy(cfg[f'{split}_dataloader'])
    loader.update(num_workers=0, persistent_workers=False)
    # torch refuses this one where there are no workers.
    loader.pop('prefetch_factor', None)
    return loader


def build_dataloader(cfg: Config, split: str) -> DataLoader:
    """Builds a data loader of a config, without workers.

    Args:
        cfg (Config): The config, in whose default scope this has to run.
        split (str): 'train', 'val' or 'test'.

    Returns:
        DataLoader: The data loader.
    """
    return Runner.build_dataloader(dataloader_config(cfg, split))


def build_train_loader(cfg: Config, seed: int) -> DataLoader:
    """Builds ``train_dataloader``, without workers.

    Args:
        cfg (Config): The config.
        seed (int): Seed of its sampler.

    Returns:
        DataLoader: The loader.

    Raises:
        ConfigError: If the config has none, or it cannot be built.
    """
    if not cfg.get('train_dataloader'):
        raise ConfigError('The config has no key "train_dataloader".')
    with loading():
        loader = Runner.build_dataloader(
            dataloader_config(cfg, 'train'), seed=seed
        )
        if not len(loader.dataset):
            raise ValueError('the data set is empty.')
    return loader


def first_batch(loader: DataLoader) -> Any:
    """Takes the first batch of a ``train_dataloader``.

    Args:
        loader (DataLoader): The loader.

    Returns:
        Any: The batch.

    Raises:
        ConfigError: If it gives none.
    """
    dataset: Any = loader.dataset
    with loading():
        for batch in loader:
            return batch
        raise ValueError(
            f'its {len(dataset)} images are fewer than one batch, which '
            'drop_last leaves out.'
        )


def run_losses(
    model: BaseModel, data: dict[str, Any]
) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Computes a model's losses on a copy of a batch.

    Some heads write into the ground truth.

    Args:
        model (BaseModel): The model.
        data (dict[str, Any]): What its data preprocessor made of a batch.

    Returns:
        dict[str, torch.Tensor | list[torch.Tensor]]: The losses by name.
    """
    return model(**copy.deepcopy(data), mode='loss')


def loading(when: str = '') -> AbstractContextManager[None]:
    """Explains why no data comes.

    Args:
        when (str): When it is loaded, such as ' in epoch 3'. Defaults to ''.

    Returns:
        AbstractContextManager[None]: As :func:`explained`.
    """
    return explained(
        f'train_dataloader gives no batch{when}',
        '\nCheck data_root, ann_file, data_prefix and pipeline of '
        'train_dataloader.dataset.',
    )
