"""An input for every distill loss and connector, from its own test file.

A test file of ``test_losses`` or ``test_connectors`` that is about a class
has a list ``EXAMPLES``. The tests of all of them together are made of these.
"""

from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import nn

TESTS = Path(__file__).resolve().parent


class Example(NamedTuple):
    """A loss or connector with an input.

    Args:
        config (dict[str, Any]): Its config; the type has no scope.
        inputs (Callable[[], dict[str, Any]]): Makes the arguments of its
            forward, on the default device.
        takes (str): ``neck`` for maps such as :func:`neck` makes,
            ``listed neck`` where a key lists their channels, ``labelled
            logits`` for those of proposals: such losses are tested on real
            detectors, too. Defaults to '', which leaves them out.
    """

    config: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    takes: str = ''


def read_examples() -> dict[str, list[Example]]:
    """All examples by the name of the class."""
    found = defaultdict(list)
    for folder in ('test_losses', 'test_connectors'):
        for file in sorted((TESTS / 'test_models' / folder).rglob('test_*')):
            path = file.relative_to(TESTS.parent).with_suffix('')
            module = import_module('.'.join(path.parts))
            for example in getattr(module, 'EXAMPLES', ()):
                found[example.config['type']].append(example)
    return dict(found)


def maps(*shape: int) -> torch.Tensor:
    """Features with a gradient."""
    return torch.randn(shape, requires_grad=True)


def pair(*shape: int) -> dict[str, torch.Tensor]:
    """Predictions of both sides."""
    return dict(preds_S=maps(*shape), preds_T=torch.randn(shape))


def labelled(device: Any = None) -> dict[str, torch.Tensor]:
    """Logits of three images with their classes, which may lie elsewhere."""
    labels = torch.zeros(3, dtype=torch.long, device=device)
    return pair(3, 5) | dict(gt_labels=labels)


def of_classifiers(**more: Any) -> dict[str, Any]:
    """Last maps and linear classifiers of five classes, of both sides."""
    return dict(
        preds_S=maps(2, 3, 6, 5),
        preds_T=maps(2, 4, 3, 3),
        fc_S=nn.Linear(3, 5),
        fc_T=nn.Linear(4, 5),
        **more,
    )


def neck(**more: Any) -> dict[str, Any]:
    """Five levels of 16 channels of both sides, and what else there is."""
    shapes = [(2, 16, size, size) for size in (8, 4, 2, 1, 1)]
    return dict(
        preds_S=[maps(*shape) for shape in shapes],
        preds_T=[torch.randn(shape) for shape in shapes],
        **more,
    )


def samples(size: int = 64) -> list:
    """Two images with boxes, as a data preprocessor leaves them."""
    from mmdet.structures import DetDataSample

    found = []
    for index in range(2):
        shape = (size, size)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.rand(3, 4),
            labels=torch.zeros(3, dtype=torch.long),
        )
        found.append(sample)
    return found
