"""Reads the outputs and gradients of the methods' official code.

Small cases of every method lie in ``tests/golden``. Where a larger set lies in
``../shared/golden`` beside the checkout, its cases are added.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).with_name('golden')
LARGER = Path(__file__).resolve().parents[2] / 'shared' / 'golden'


class Case(NamedTuple):
    """One recorded call of the official code; tensors are float64."""

    settings: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    params: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    grads: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


def read_file(path: Path) -> dict[str, Case]:
    """The cases of a file by label such as ``c0``."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != 'meta'}
    cases: dict[str, Case] = {}
    for key, array in arrays.items():
        label, kind, *rest = key.split('/', 2)
        case = cases.setdefault(label, Case({}, {}, {}, {}, {}, {}))
        if kind == 'settings':
            case.settings.update(json.loads(str(array)))
        else:
            part = {'in': 1, 'param': 2, 'out': 3, 'grad': 4, 'after': 5}[kind]
            case[part][rest[0]] = torch.from_numpy(np.array(array))
    return cases


def read_cases(name: str) -> dict[str, Case]:
    """All cases of ``name``.npz, those of the repository first."""
    cases = read_file(FOLDER / f'{name}.npz')
    larger = LARGER / f'{name}.npz'
    return cases | read_file(larger) if larger.is_file() else cases


def parametrize(name: str, *kinds: str) -> pytest.MarkDecorator:
    """Parametrizes a test over the cases of ``name`` as ``case``.

    ``kinds`` are the beginnings of the labels to take; all without any.
    """
    cases = {
        key: case
        for key, case in read_cases(name).items()
        if case.settings['label'].startswith(kinds or '')
    }
    return pytest.mark.parametrize('case', cases.values(), ids=cases.keys())
