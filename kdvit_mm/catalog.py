"""The methods of the package, as the metafiles of their configs have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.fileio import load

#: In the order in which a method that has several is described.
TASKS = ('Detection', 'Segmentation', 'Classification')
REQUIRED = (
    'Method',
    'Kind',
    'Task',
    'Distils',
    'Distils zh',
    'Classes',
    'Distillers',
)


@dataclass(frozen=True)
class Method:
    """A method for one task.

    Args:
        name (str): What ``METHOD=`` and ``--method`` take.
        title (str): Its name in the paper.
        task (str): One of :data:`TASKS`.
        kind (str): ``response``, ``feature`` or ``relation``; ``procedure``
            for a way of training, whose losses are those of other methods.
        distils (str): What is distilled, a phrase.
        needs (str | None): What it needs, a phrase.
        classes (tuple[str, ...]): Classes as configs write them.
        distillers (tuple[str, ...]): Files of ``configs/_base_/distillers``;
            the first is the one to start from.
        demo (Mapping[str, tuple[str, ...]]): Names of configs in
            ``configs/demo`` by data set; the first is the method's own, others
            are of its variants.
        golden (bool | str): Whether it is checked against the official code,
            or how far.
        paper (str | None): Its URL.
        code (str | None): URL of the official code.
        folder (Path): Where its configs and its metafile are.
        facts (Mapping[str, Any]): All of these, and their translations, as
            the metafile has them.
        models (tuple[dict, ...]): The metafile's entries, one for each config.
    """

    name: str
    title: str
    task: str
    kind: str
    distils: str
    needs: str | None
    classes: tuple[str, ...]
    distillers: tuple[str, ...]
    demo: Mapping[str, tuple[str, ...]]
    golden: bool | str
    paper: str | None
    code: str | None
    folder: Path
    facts: Mapping[str, Any] = field(repr=False)
    models: tuple[dict, ...] = field(repr=False)

    @property
    def demos(self) -> dict[str, dict[str, str]]:
        """dict[str, dict[str, str]]: The demos by what ``METHOD=`` takes.

        That is the method's name for its own, and the first part of the
        config's name for a variant.
        """
        found: dict[str, dict[str, str]] = {}
        for data, (own, *variants) in self.demo.items():
            found.setdefault(self.name, {})[data] = own
            for variant in variants:
                found.setdefault(variant.split('_')[0], {})[data] = variant
        return found


def config_root() -> Path:
    """The folder ``configs`` of the checkout or of the installed package.

    Returns:
        Path: The folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    package = Path(__file__).resolve().parent
    for root in (package.parent / 'configs', package / '.mim' / 'configs'):
        if (root / 'distill').is_dir():
            return root
    raise FileNotFoundError(
        f'{package} has no configs beside it. Install kdvit_mm again, or run '
        'this from a checkout.'
    )


def read_method(metafile: Path) -> Method:
    """Reads the method that a metafile describes.

    Args:
        metafile (Path): A ``metafile.yml`` of ``configs/distill``.

    Returns:
        Method: The method.

    Raises:
        ValueError: If a fact is missing, or the task is not one of
            :data:`TASKS`.
    """
    content = load(str(metafile))
    (collection,) = content['Collections']
    facts = collection['Metadata']
    required = [*REQUIRED]
    for key in ('Needs', 'Golden'):
        if isinstance(facts.get(key), str):
            required.append(f'{key} zh')
    missing = [key for key in required if key not in facts]
    if missing:
        raise ValueError(
            f'{metafile}: add {", ".join(missing)} to Metadata of the '
            'collection; docs/contributing.md says what they mean.'
        )
    if facts['Task'] not in TASKS:
        raise ValueError(
            f'{metafile}: Task is {facts["Task"]!r}, but has to be one of '
            f'{", ".join(TASKS)}.'
        )
    return Method(
        name=facts['Method'],
        title=collection['Name'].split(' (')[0],
        task=facts['Task'],
        kind=facts['Kind'],
        distils=facts['Distils'],
        needs=facts.get('Needs'),
        classes=tuple(facts['Classes']),
        distillers=tuple(facts['Distillers']),
        demo={
            data: (found,) if isinstance(found, str) else tuple(found)
            for data, found in facts.get('Demo', {}).items()
        },
        golden=facts.get('Golden', False),
        paper=collection.get('Paper', {}).get('URL'),
        code=collection.get('Code', {}).get('URL'),
        folder=metafile.parent,
        facts=facts,
        models=tuple(content['Models']),
    )


@cache
def all_methods() -> tuple[Method, ...]:
    """All methods, by title and then by task."""
    metafiles = (config_root() / 'distill').glob('*/*/metafile.yml')
    return tuple(
        sorted(
            map(read_method, metafiles),
            key=lambda m: (m.title.lower(), TASKS.index(m.task)),
        )
    )


def methods(task: str | None = None) -> dict[str, Method]:
    """Methods by name, but for ways of training.

    Args:
        task (str | None): One of :data:`TASKS`. Defaults to None, each method
            for the first task that it has configs for.

    Returns:
        dict[str, Method]: The methods, in the order of their titles.
    """
    return _by_name(task, procedures=False)


def procedures(task: str | None = None) -> dict[str, Method]:
    """Ways of training by name.

    Args:
        task (str | None): One of :data:`TASKS`. Defaults to None, each for
            the first task that it has configs for.

    Returns:
        dict[str, Method]: Their metafiles, in the order of their titles.
    """
    return _by_name(task, procedures=True)


def _by_name(task: str | None, procedures: bool) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for method in all_methods():
        is_procedure = method.kind == 'procedure'
        if task in (None, method.task) and is_procedure is procedures:
            found.setdefault(method.name, method)
    return found
