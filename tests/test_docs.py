"""The walk-throughs of the docs work as they are written."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / 'shared' / 'data'
# What is replaced in the configs: no network, a tiny schedule.
TINY = {
    r'^load_from = .*\n': '',
    r'^(image_size|image_scale|crop_size) = .*': r'\1 = (64, 64)',
    r'^max_epochs = .*': 'max_epochs = 1',
    r'^max_iters = .*': 'max_iters = 2',
}
BLOCKS = re.compile(r'^```(bash|python)\n(.*?)^```$', re.M | re.S)
PRINT = 'python() { printf "%s\\0" "$@"; }'
TRAINED, TESTED = 2, 1


def copy_bccd(folder: Path) -> None:
    """Copies some images of each split."""
    for split, number in (('train', TRAINED), ('val', TESTED)):
        name = f'annotations/instances_{split}.json'
        content = json.loads((DATA / 'bccd' / name).read_text())
        content['images'] = content['images'][:number]
        ids = [image['id'] for image in content['images']]
        content['annotations'] = [
            box for box in content['annotations'] if box['image_id'] in ids
        ]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / 'images').symlink_to(DATA / 'bccd/images')


def copy_ccp(folder: Path) -> None:
    """Copies some images of each split, with their masks."""
    for split, number in (('train', TRAINED), ('val', TESTED)):
        for image in sorted((DATA / f'ccp/images/{split}').iterdir())[:number]:
            for name in (
                f'images/{split}/{image.name}',
                f'labels/{split}/{image.stem}.png',
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(DATA / 'ccp' / name, folder / name)


@pytest.mark.slow
@pytest.mark.usefixtures('forked')
@pytest.mark.parametrize(
    ('page', 'data', 'copy', 'metric'),
    [
        ('rtmdet_coco', 'bccd', copy_bccd, r'bbox_mAP: +[\d.]+'),
        ('segformer_masks', 'ccp', copy_ccp, r'mIoU: +[\d.]+'),
    ],
)
def test_a_walk_through(page, data, copy, metric, tmp_path):
    """Runs all blocks in order, for one epoch or two iterations."""
    if not (DATA / data).is_dir():
        pytest.skip(f'needs {DATA / data}')
    copy(tmp_path / 'data' / data)
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    output = ''
    text = (ROOT / f'docs/{page}.md').read_text()
    for language, block in BLOCKS.findall(text):
        if language == 'python':
            name = re.match(r'# (\S+\.py)\n', block)[1]
            for line, replacement in TINY.items():
                block = re.sub(line, replacement, block, flags=re.M)
            (tmp_path / name).write_text(block)
            if name != 'predict.py':
                continue
            block = 'python predict.py'
        # A shell reads the command, and prints what Python would get.
        words = subprocess.run(
            ['bash', '-ec', f'{PRINT}\n{block}'],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout.split('\0')[:-1]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        output += done.stdout + done.stderr
        assert done.returncode == 0, output[-3000:]
    assert 'This config can train' in output
    assert re.search(metric, output)
    assert [*(tmp_path / 'predictions/vis').iterdir()]


@pytest.mark.parametrize(
    'page',
    [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')],
    ids=lambda path: path.name,
)
def test_links_lead_to_files(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)#]+)', text):
        if '://' not in target:
            assert (page.parent / target).exists(), target
