"""Figures in metafiles and tables are of the very setting they stand for."""

import copy
import functools
import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from mmengine.utils import get_installed_path

from tests.test_configs_full import ROOT, label, parsed, published

METAFILES = sorted((ROOT / 'distill').rglob('metafile.yml'))
REPOSITORY_FILE = (
    r'https://github\.com/[^/]+/[^/]+/blob/[^/]+/\S+\.(md|py|sh|yml)'
)
PAPER = r'https://arxiv\.org/abs/\d{4}\.\d{5}'
#: Students alone are trained anew by authors.
RETRAINED = 0.15


def read(metafile: Path) -> tuple[dict, list[dict]]:
    content = yaml.safe_load(metafile.read_text())
    (collection,) = content['Collections']
    return collection, content['Models']


ENTRIES = {
    entry['Name']: (entry, collection)
    for collection, entries in map(read, METAFILES)
    for entry in entries
}
#: All but those of small networks, which are tested with their tool.
BY_PACKAGES = {
    name: found
    for name, found in ENTRIES.items()
    if not name.endswith(('_cifar100', '_cub200'))
    and found[1]['Metadata']['Kind'] != 'procedure'
}
PUBLISHED = [
    name
    for name, (entry, _) in ENTRIES.items()
    if 'Published' in entry['Metadata']
]


def schedule(name: str) -> str:
    """What the config of an entry trains for, in the words of its name."""
    cfg = parsed(ROOT.parent / ENTRIES[name][0]['Config'])
    loop = cfg.train_cfg
    if cfg.default_scope == 'mmpretrain':
        return f'8xb{cfg.train_dataloader.batch_size}'
    if 'max_iters' in loop:
        return f'{loop.max_iters // 1000}k'
    return {12: '1x', 24: '2x'}[loop.max_epochs]


def mistakes(entry: dict, collection: dict) -> list[str]:
    """Keys of a published figure that are not the entry's own setting's."""
    metadata = entry['Metadata']
    found = metadata.get('Published')
    if found is None:
        return []
    if 'Paper' not in collection:
        return ['Paper']
    model = parsed(ROOT.parent / entry['Config']).model
    own = {
        'Method': collection['Name'].split(' (')[0],
        'Location': metadata['Location'],
        'Teacher': {
            'Model': label(published(model.teacher.cfg_path).model),
            'Weights': model.teacher_ckpt,
        },
        'Student': {
            'Model': label(model.architecture),
            'Metrics': pytest.approx(
                metadata['Student']['Metrics'], abs=RETRAINED
            ),
        },
        'Schedule': schedule(entry['Name']),
    }
    wrong = [key for key, value in own.items() if found.get(key) != value]
    source, place = found.get('Source', ''), found.get('Entry', '')
    is_paper = re.fullmatch(PAPER, source) and 'Table' in place
    if not is_paper and not re.fullmatch(REPOSITORY_FILE, source):
        wrong.append('Source')
    if not place:
        wrong.append('Entry')
    names = metadata['Student']['Metrics'].keys()
    if found.get('Metrics', {}).keys() != names:
        wrong.append('Metrics')
    known = own.keys() | {'Metrics', 'Source', 'Entry', 'Config'}
    return wrong + sorted(found.keys() - known)


@pytest.mark.parametrize('name', BY_PACKAGES)
def test_published_figures_are_of_the_configs_own_setting(name):
    assert mistakes(*ENTRIES[name]) == []
    assert f'_{schedule(name)}_' in name.replace('-', '_')


def test_some_figures_are_published():
    assert len(PUBLISHED) >= 8
    methods = {ENTRIES[name][1]['Name'] for name in PUBLISHED}
    assert methods >= {'DIST', 'FGD', 'KD', 'LD', 'MGD', 'PKD'}


FGD = 'fgd_fpn_retinanet_x101-64x4d_retinanet_r50_2x_coco'


@pytest.mark.parametrize(
    ('target', 'change', 'wrong'),
    [
        # The figure of FGD at this project's own method, and at a rival's.
        ('levels-fgd_fpn_retinanet_x101-64x4d_retinanet_r50_2x_coco', {},
         ['Paper']),
        ('mgd_fpn_retinanet_x101-64x4d_retinanet_r50_2x_coco', {},
         ['Method']),
        # At another teacher's weights, student, place and schedule.
        ('freekd_fpn_retinanet_x101-64x4d_retinanet_r50_2x_coco',
         {'Method': 'FreeKD'}, ['Teacher']),
        ('pkd_fpn_fcos_x101-64x4d_retinanet_r50_1x_coco', {'Method': 'PKD'},
         ['Teacher', 'Student', 'Schedule']),
        ('fgd_fpn_gfl_x101-32x4d_gfl_r18_1x_coco', {},
         ['Teacher', 'Student', 'Schedule']),
        (FGD, {'Location': 'cls head'}, ['Location']),
        (FGD, {'Schedule': '1x'}, ['Schedule']),
        # Without saying where.
        (FGD, {'Source': 'official README, same setting'}, ['Source']),
        (FGD, {'Source': 'https://github.com/yzd-v/FGD'}, ['Source']),
        (FGD, {'Source': 'https://arxiv.org/abs/2111.11837'}, ['Source']),
        (FGD, {'Source': 'https://arxiv.org/abs/2111.11837',
               'Entry': 'Table 1'}, []),
        (FGD, {'Entry': ''}, ['Entry']),
        (FGD, {'Metrics': {'mIoU': 40.7}}, ['Metrics']),
    ],
)  # fmt: skip
def test_figures_of_other_settings_are_found(target, change, wrong):
    entry, collection = copy.deepcopy(ENTRIES[target])
    figure = ENTRIES[FGD][0]['Metadata']['Published']
    entry['Metadata']['Published'] = figure | change
    assert mistakes(entry, collection) == wrong


@functools.cache
def upstream_metrics(cfg_path: str) -> dict[str, float]:
    """Of a config, as the metafile of its package has them."""
    package, path = cfg_path.split('::')
    folder = Path(get_installed_path(package)) / '.mim/configs'
    (metafile,) = (folder / path).parent.glob('metafile.y*ml')
    models = yaml.safe_load(metafile.read_text())['Models']
    (results,) = (
        model['Results'] for model in models if model['Config'].endswith(path)
    )
    if isinstance(results, list):
        # Of the task that a metafile of this package has.
        keys = {'box AP', 'mIoU', 'Top 1 Accuracy'}
        (results,) = (r for r in results if keys & r['Metrics'].keys())
    return results['Metrics']


def test_figures_of_teachers_and_students_are_the_packages_own():
    for entry, _ in ENTRIES.values():
        for side in ('Teacher', 'Student'):
            model = entry['Metadata'].get(side, {})
            metrics = model.get('Metrics', {})
            if metrics and '::' in model['Config']:
                known = upstream_metrics(model['Config'])
                assert metrics.items() <= known.items(), entry['Name']
            elif metrics:
                # Of a config that the packages have not.
                assert re.fullmatch(REPOSITORY_FILE, model['Source'])


def test_metafiles_name_the_models_of_the_configs():
    for entry, _ in BY_PACKAGES.values():
        if 'Student' in entry['Metadata']:
            model = parsed(ROOT.parent / entry['Config']).model
            sides = {
                'Teacher': published(model.teacher.cfg_path).model,
                'Student': model.architecture,
            }
            for side, cfg in sides.items():
                assert entry['Metadata'][side]['Model'] == label(cfg)


def test_every_config_has_its_entry():
    configs = {path.stem for path in (ROOT / 'distill').rglob('*.py')}
    assert ENTRIES.keys() == configs


def test_what_is_generated_is_fresh(monkeypatch):
    """Else run ``python tools/misc/generate_docs.py``."""
    monkeypatch.syspath_prepend(ROOT.parent / 'tools/misc')
    documents = importlib.import_module('generate_docs').documents()
    generated = [file.relative_to(ROOT.parent) for file in documents]
    assert {Path('README.md'), Path('README_zh-CN.md')} <= {*generated}
    assert [f for f, text in documents.items() if f.read_text() != text] == []


def test_nothing_is_published_of_the_small_pairs():
    tables = [*(ROOT / 'benchmark').glob('*.yaml')]
    results = [*(ROOT.parent / 'docs/results').glob('*.json')]
    assert tables
    assert results
    for table in tables:
        for row in yaml.safe_load(table.read_text())['rows']:
            assert 'published' not in row, (table.name, row['name'])
    for result in results:
        for line in json.loads(result.read_text()).get('lines', []):
            assert not line['published'], (result.name, line['name'])
