"""Chooses among the models that a config describes."""

import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from mmengine.config import Config, ConfigDict

from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class ConfigMutator:
    """What a search may choose, as changes of a config.

    Stands where mmrazor's searches have the mutator of a supernet. A choice
    is a label of each thing that varies; its model is built alone, so that
    whatever a config says can vary, and nothing has to be shared. ::

        dict(
            type='ConfigMutator',
            config='mmdet::gfl/gfl_r50_fpn_1x_coco.py',
            choices=dict(
                depth={str(d): {'backbone.depth': d} for d in (50, 101)},
                width={
                    '32': {'backbone.base_channels': 32,
                           'neck.in_channels': [128, 256, 512, 1024]},
                    '64': {'backbone.base_channels': 64,
                           'neck.in_channels': [256, 512, 1024, 2048]},
                }))

    Args:
        config (str): Config of the model that varies: a file, or a name such
            as ``mmdet::gfl/gfl_r50_fpn_1x_coco.py``.
        choices (Mapping[str, Mapping[str, Mapping[str, Any]]]): By the name
            of what varies and the label of an option, changes of the model by
            dotted keys.

    Raises:
        ValueError: If there is nothing to choose, or the config cannot be
            read.
    """

    def __init__(
        self,
        config: str,
        choices: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ) -> None:
        empty = [name for name, options in choices.items() if not options]
        if empty or not choices:
            raise ValueError(
                f'ConfigMutator: choices of {empty[0] if empty else "it"} '
                'has no option. Write a dict of options, each with the keys '
                'of the model that it changes.'
            )
        self.config = config
        self.choices = choices
        self.current_choices: dict[str, str] = {}
        self._model = resolve_cfg_path({'cfg_path': config})

    def sample_choices(self) -> dict[str, str]:
        """Draws a choice from Python's random stream, as mmrazor does."""
        return {
            name: random.choice([*options])
            for name, options in self.choices.items()
        }

    def set_choices(self, choices: dict[str, str]) -> None:
        """Makes a choice the current one.

        Args:
            choices (dict[str, str]): A label by the name of each thing.
        """
        self.current_choices = choices

    def all_choices(self) -> list[dict[str, str]]:
        """Lists all that can be chosen."""
        return [
            dict(zip(self.choices, labels, strict=True))
            for labels in product(*self.choices.values())
        ]

    def changes(self, choices: Mapping[str, str]) -> dict[str, Any]:
        """What a choice changes.

        Args:
            choices (Mapping[str, str]): The choice.

        Returns:
            dict[str, Any]: Values of the model by dotted keys.
        """
        found: dict[str, Any] = {}
        for name, label in choices.items():
            found |= self.choices[name][label]
        return found

    def model_config(self, choices: Mapping[str, str]) -> ConfigDict:
        """The config of the model that is chosen.

        Args:
            choices (Mapping[str, str]): The choice.

        Returns:
            ConfigDict: The config.
        """
        cfg = Config({'model': self._model.to_dict()})
        cfg.merge_from_dict(
            {f'model.{k}': v for k, v in self.changes(choices).items()}
        )
        return cfg.model
