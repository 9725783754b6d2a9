"""Writes what is known of the methods into README, docs and model index.

The facts are those of the metafiles in ``configs/distill`` and of the results
in ``docs/results``. What stands between the markers
``<!-- generated: NAME -->`` and ``<!-- end generated -->`` is replaced, in
YAML files between ``# generated: NAME`` and ``# end generated``, and so is
``model-index.yml``.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from os.path import relpath
from pathlib import Path
from textwrap import indent

from generated_files import write_or_check

from kdvit_mm.catalog import (
    TASKS,
    Method,
    all_methods,
    config_root,
    methods,
    procedures,
)

ROOT = config_root().parent
MARKED = re.compile(
    # Markers in a code block are examples.
    r'^```.*?^```|'
    r'^(?P<begin>(?P<indent> *)(?:<!--|#) generated: (?P<name>[\w-]+)[^\n]*\n)'
    r'.*?(?P<end>^ *(?:<!--|#) end generated)',
    re.MULTILINE | re.DOTALL,
)
DASH = '\N{EN DASH}'
METRICS = {'box AP': 'box AP', 'mIoU': 'mIoU', 'Top 1 Accuracy': 'top-1'}
#: What the figures in the README of a method are.
FIGURES = {
    'Detection': """\
COCO, box AP on val2017. APs of teachers and of students alone are mmdet's,
those of GFL R18 and R34 from LD's README; a dash where we know of none.
RX18 is a ResNeXt-18 32x4d and has to be
[pre-trained](../../../../docs/methods.md#rx18) first.
""",
    'Segmentation': """\
mIoU on val. The mIoUs of teachers and of students alone are mmseg's; a dash
where it has none. Batches are 8 on Cityscapes, 16 elsewhere.
""",
    'Classification': '',
}
#: The same of classifiers, by the last part of a config's name.
DATA = {
    'cifar100': """\
CIFAR-100, top-1 accuracy on the test set. The accuracies of teachers and of
students alone are RepDistiller's; the published figures have its
[teachers](../../../../docs/classification.md#teachers).
""",
    'cub200': """\
CUB-200, top-1 accuracy on the test set. Nothing is published of these very
teachers.
""",
    'in1k': """\
ImageNet-1k, top-1 accuracy on val. The accuracies of teachers and of students
alone are mmpretrain's.
""",
}
DATA_NAMES = {'cifar100': 'CIFAR-100', 'cub200': 'CUB-200'}


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f'| {" | ".join(row)} |\n' for row in (header, *rows)]
    return ''.join((lines[0], '|---' * len(header), '|\n', *lines[1:]))


def link(text: str, path: Path, file: Path) -> str:
    """A link from ``file`` to another file or folder."""
    return f'[{text}]({relpath(path, file.parent)})'


def code(names: Iterable[str]) -> str:
    """Names as code."""
    return ', '.join(f'`{name}`' for name in names)


def overview(file: Path, chinese: bool = False) -> str:
    """One row for each method."""
    header = ['method', 'name', 'distils', 'needs', *map(str.lower, TASKS)]
    language = ''
    if chinese:
        header = [
            '方法',
            '名称',
            '蒸馏什么',
            '需要什么',
            '检测',
            '分割',
            '分类',
        ]
        language = ' zh'
    rows = []
    for method in methods().values():
        facts = method.facts
        title = link(method.title, method.folder, file)
        if method.paper:
            title = f'[{method.title}]({method.paper})'
        golden = '✓' if method.golden else ''
        if isinstance(method.golden, str):
            golden += f' {facts[f"Golden{language}"]}'
        rows.append([
            title,
            code([method.name]),
            facts[f'Distils{language}'],
            facts.get(f'Needs{language}', ''),
            *(places(method, task, file) for task in TASKS),
            golden,
        ])  # fmt: skip
    return table([*header, 'golden'], rows)


def places(method: Method, task: str, file: Path) -> str:
    """Where a method distils in a task, with a link if it has configs."""
    configs = methods(task).get(method.name)
    if configs is None:
        return method.facts.get('Also', {}).get(task, '')
    found = [
        place
        for model in configs.models
        for place in model['Metadata']['Location'].split(' and ')
    ]
    return link(', '.join(dict.fromkeys(found)), configs.folder, file)


def parts(file: Path) -> str:
    """What a config of each method is made of, one row for each task."""
    header = ['Method', 'Task', 'Kind', 'Distils', 'Needs', 'Classes']
    rows = [
        [
            link(method.title, method.folder / 'README.md', file),
            method.task.lower(),
            method.kind,
            method.distils,
            method.needs or DASH,
            code(method.classes),
            code(method.distillers),
        ]
        for method in all_methods()
        if method.kind != 'procedure'
    ]
    return table([*header, 'Distillers'], rows)


def choices(file: Path, task: str) -> str:
    """What decides between the methods for a task, one row for each."""
    header = ['Method', '`--method`', 'Kind', 'Distils', 'Needs']
    found = methods(task).values()
    rows = [
        [
            link(method.title, method.folder / 'README.md', file),
            code([method.name]),
            method.kind,
            method.distils,
            method.needs or DASH,
        ]
        for method in found
    ]
    # The table of results is of detectors.
    if task == 'Detection':
        header.append('Step time')
        lines = result_lines('digits')
        for row, method in zip(rows, found, strict=True):
            time = lines.get(method.title, {}).get('step_ratio')
            row.append(f'{time:.2f}' if time else DASH)
    return table(header, rows)


def ways(file: Path) -> str:
    """The ways of training, one row for each task."""
    header = ['Way of training', 'Task', '`METHOD=`', 'Distils', 'Needs']
    rows = [
        [
            link(method.title, method.folder / 'README.md', file),
            method.task.lower(),
            code([method.name]),
            method.distils,
            method.needs or DASH,
        ]
        for task in TASKS
        for method in procedures(task).values()
    ]
    return table(header, sorted(rows))


def pairs(file: Path) -> str:
    """Pairs of teacher and student with the methods that have a config."""
    rows: dict[tuple[int, str, str], dict[str, str]] = {}
    for method in all_methods():
        for model in method.models if method.kind != 'procedure' else ():
            facts = model['Metadata']
            if 'Student' not in facts:
                continue
            teacher, student = (
                f'{facts[side]["Model"]}, {facts[side]["Schedule"]}'
                for side in ('Teacher', 'Student')
            )
            data = DATA_NAMES.get(model['Name'].rpartition('_')[2])
            student += f', {data}' if data else ''
            pair = TASKS.index(method.task), teacher, student
            config = method.folder / Path(model['Config']).name
            links = rows.setdefault(pair, {})
            links.setdefault(method.title, link(method.title, config, file))
    return table(
        ['Teacher', 'Student', 'Configs'],
        ([*pair[1:], ', '.join(rows[pair].values())] for pair in sorted(rows)),
    )


def configs(file: Path) -> str:
    """The configs of the method whose README the file is."""
    (method,) = (m for m in all_methods() if m.folder == file.parent)
    tables: dict[str, list[dict]] = {}
    for model in method.models:
        # One without a student prepares the teacher or goes on from another.
        if 'Student' in model['Metadata']:
            data = model['Name'].rpartition('_')[2]
            about = DATA.get(data) or FIGURES[method.task]
            tables.setdefault(about, []).append(model)
    return '\n'.join(
        f'{about}\n{config_table(models, file)}'
        for about, models in tables.items()
    )


def config_table(models: list[dict], file: Path) -> str:
    """A table of configs of a method, whose README the file is."""
    rows = []
    metric = ''
    for model in models:
        facts = model['Metadata']
        sides = []
        for side in (facts['Teacher'], facts['Student']):
            key, value = next(iter(side.get('Metrics', {'': DASH}).items()))
            metric = METRICS.get(key, metric)
            sides.append(f'{side["Model"]}, {side["Schedule"]} ({value})')
        name = model['Name']
        place = '_'.join(name.split('_')[:2])
        config = link(place, file.with_name(f'{name}.py'), file)
        data = name.split('_')[-1]
        rows.append([data, *sides, config, ours(model), published(model)])
    header = ['data', f'teacher ({metric})', f'student, alone ({metric})']
    header += ['config', 'ours', 'published']
    if len({row[0] for row in rows}) == 1:
        header, *rows = (row[1:] for row in (header, *rows))
    return table(header, rows)


def ours(model: dict) -> str:
    """What a config reached here."""
    if 'Results' not in model:
        gpus = model['Metadata']['Training Resources'].split(',')[0]
        return f'not run: needs {gpus}'
    (result,) = model['Results']
    return str(next(iter(result['Metrics'].values())))


def published(model: dict) -> str:
    """What is published of a config's very setting."""
    figure = model['Metadata'].get('Published')
    if figure is None:
        return 'none'
    (value,) = figure['Metrics'].values()
    return f'{value} ([source]({figure["Source"]}): {figure["Entry"]})'


def demos(file: Path) -> str:
    """What ``make demo`` can be told to run."""
    rows = []
    for task, flag in zip(TASKS, ('', 'TASK=seg ', 'TASK=cls '), strict=True):
        for method in (*methods(task).values(), *procedures(task).values()):
            for name, demo in method.demos.items():
                configs = (
                    link(data, file.with_name(f'{config}.py'), file)
                    for data, config in demo.items()
                )
                rows.append([
                    link(method.title, method.folder / 'README.md', file),
                    code([f'make demo {flag}METHOD={name}']),
                    ', '.join(configs),
                ])  # fmt: skip
    return table(['method', 'command', 'data'], rows)


def result_lines(data: str) -> dict[str, dict]:
    """Lines of the table of all methods on a data set, by name."""
    file = ROOT / f'docs/results/methods_{data}.json'
    lines = json.loads(file.read_text())['lines']
    return {line['name']: line for line in lines}


def small_pairs(file: Path, chinese: bool = False) -> str:
    """What all methods reach on the small pairs."""
    digits, cells = result_lines('digits'), result_lines('bccd')
    header = ['', 'digit scenes', 'Δ', 'blood cells', 'Δ']
    if chinese:
        header = ['', '数字场景', 'Δ', '血细胞', 'Δ']
    rows = []
    for name in digits:
        # They are learned on the teacher, which they do not change.
        if name.endswith(' prompts'):
            continue
        row = [
            estimate(lines[name][key], sign)
            for lines in (digits, cells)
            for key, sign in (('mean', ''), ('difference', '+'))
        ]
        if chinese:
            name = name.replace('teacher', '教师')
            name = name.replace('student alone', '学生单独训练')
        rows.append([name, *row])
    return table(header, rows)


def estimate(value: dict | None, sign: str) -> str:
    """A mean with half of its interval."""
    if value is None:
        return ''
    mean, half = value['mean'], value['half_width']
    return f'{mean:{sign}.1f}' + (f' ± {half:.1f}' if half else '')


def table_rows(file: Path, task: str, network: str, title: str) -> str:
    """Rows of a table file: methods on a network, if not there by hand."""
    by_hand = MARKED.sub('', file.read_text())
    data = file.stem.split('_')[1]
    rows = ''
    for method in methods(task).values():
        if not method.paper:
            continue
        for demo in method.demos.values():
            config = demo.get(data, '')
            if not config or f'/{config}.py' in by_hand:
                continue
            # What goes on from another student is written by hand.
            demo_file = file.parents[1] / 'demo' / f'{config}.py'
            if 'load_from' in demo_file.read_text():
                continue
            prefix, _, found, *_ = config.split('_')
            variants = len(method.demos) > 1
            if found == network:
                rows += (
                    f'- name: {prefix.upper() if variants else method.title}\n'
                    f'  config: ../demo/{config}.py\n'
                    f'  teacher: {title} teacher\n'
                )
    return rows


BLOCKS: dict[str, Callable[[Path], str]] = {
    'methods': overview,
    'methods-zh': partial(overview, chinese=True),
    'parts': parts,
    'pairs': pairs,
    'ways': ways,
    **{f'choices-{t.lower()}': partial(choices, task=t) for t in TASKS},
    'configs': configs,
    'demos': demos,
    'small-pairs': small_pairs,
    'small-pairs-zh': partial(small_pairs, chinese=True),
    'gfl-rows': partial(
        table_rows, task='Detection', network='gfl', title='GFL'
    ),
    'faster-rcnn-rows': partial(
        table_rows,
        task='Detection',
        network='faster-rcnn',
        title='Faster R-CNN',
    ),
    'resnet-rows': partial(
        table_rows,
        task='Classification',
        network='resnet18-w0.25',
        title='ResNet',
    ),
    'pspnet-rows': partial(
        table_rows,
        task='Segmentation',
        network='pspnet',
        title='PSPNet',
    ),
}


def fill(file: Path) -> str:
    """The text of a file with its generated parts rewritten."""

    def block(found: re.Match) -> str:
        if found['name'] is None:
            return found[0]
        if found['name'] not in BLOCKS:
            sys.exit(
                f'{file}: "{found["name"]}" is not generated; known are '
                f'{", ".join(BLOCKS)}.'
            )
        content = indent(BLOCKS[found['name']](file), found['indent'])
        return f'{found["begin"]}{content}{found["end"]}'

    return MARKED.sub(block, file.read_text())


def model_index() -> str:
    """The model index, which names the metafiles."""
    files = (m.folder / 'metafile.yml' for m in all_methods())
    paths = sorted(file.relative_to(ROOT).as_posix() for file in files)
    return ''.join(('Import:\n', *(f'  - {path}\n' for path in paths)))


def documents() -> dict[Path, str]:
    """What each file with something generated should hold."""
    files = [
        *ROOT.glob('README*.md'),
        *ROOT.glob('docs/*.md'),
        *ROOT.glob('configs/demo/*.md'),
        *ROOT.glob('configs/benchmark/*.yaml'),
    ]
    for method in all_methods():
        readme = method.folder / 'README.md'
        if (
            not readme.is_file()
            or 'generated: configs' not in readme.read_text()
        ):
            sys.exit(
                f'{readme} has no table of configs. Add the lines\n'
                '<!-- generated: configs -->\n<!-- end generated -->'
            )
        files.append(readme)
    return {ROOT / 'model-index.yml': model_index()} | {
        file: fill(file) for file in files
    }


if __name__ == '__main__':
    write_or_check(__doc__, documents())
