"""Parts of a config as the tools that analyse it build them."""

import copy

from mmengine.config import Config, ConfigDict


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
