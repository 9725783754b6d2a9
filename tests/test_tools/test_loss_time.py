import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdvit_mm.catalog import methods
from kdvit_mm.models.losses.relation.cirkd import CIRKDMiniBatchLoss

FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'benchmark'


@pytest.fixture
def loss_time(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module('loss_time')


@pytest.mark.usefixtures('forked')
def test_table(tmp_path):
    """On maps of 8 × 12 and below, from another folder."""
    options = ['--size', '64', '96', '--boxes', '3', '--rounds', '1']
    options += ['--task', 'det', 'seg', '--crop', '32']
    done = subprocess.run(
        [sys.executable, FOLDER / 'loss_time.py', *options, '--threads', '1'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, *lines = done.stdout.splitlines()
    assert 'batch 2 of 64 x 96, 3 boxes per image' in first
    assert 'crops of 32 x 32' in first and '1 rounds' in first
    cells = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in lines
        if line.startswith('|')
    ]
    header, rows = cells[0], {row[0]: row[1:] for row in cells[1:]}
    assert header == ['loss', 'ms', 'peak MiB', 'passes', 'speed-up', 'over']
    distillers = {
        name
        for method in methods('Detection').values()
        for name in method.distillers
    }
    # The choice of levels is timed by step_time.py; predictions of each
    # level are recorded one by one.
    others = {'levels_cwd_fpn', 'levels_fgd_fpn', 'freekd_fpn_retina'}
    assert distillers - others == distillers & rows.keys()
    for name, (ms, peak, passes, speed_up, over) in rows.items():
        assert float(ms) > 0 and float(peak) >= 0
        assert (passes == '') == name.startswith('FGD masks')
        assert (speed_up == '') == (over == '')
        if over:
            assert float(speed_up) > 0
            assert float(rows[over][0]) > 0
    assert rows['FeatureL2Loss'][2] == '1.00'
    assert rows['mmrazor.L2Loss'][2] == '3.00'


def test_bytes_are_those_counted_by_hand(loss_time):
    x = torch.randn(4, 6, requires_grad=True)
    y, rows = torch.randn(4, 6), torch.randn(4, 1)

    def moved(function):
        with loss_time.Traffic() as traffic:
            function()
        return traffic.bytes

    # Reads two tensors of 96 bytes and writes one; reads and writes one;
    # reads one and writes a number.
    assert moved(lambda: (x - y).square().sum()) == 288 + 192 + 100
    # A view is free, and so is what it repeats.
    assert moved(lambda: x.t()[1:].reshape(5, 4)) == 0
    assert moved(lambda: x * rows.expand(4, 6)) == 96 + 16 + 96
    # In place: read and written.
    assert moved(lambda: torch.zeros(6).add_(1)) == 24 + 24 + 24
    assert moved(lambda: torch.empty(6)) == 0
    row = loss_time.Row(lambda s, t: (s - t).square().sum(), x, y)
    assert loss_time.passes(row) == (288 + 192 + 100) / (96 + 96)


def test_the_loop_over_pairs_is_the_mini_batch(loss_time):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 4, 4, dtype=torch.double)
    torch.testing.assert_close(
        loss_time.pairs_by_loop(*maps), CIRKDMiniBatchLoss()(*maps)
    )


def test_the_loop_makes_the_same_masks(loss_time):
    args = argparse.Namespace(
        size=[90, 130], boxes=7, device='cpu', dtype='float32'
    )
    torch.manual_seed(0)
    inputs = loss_time.Inputs(args)
    boxes = inputs.draw_boxes(40)
    for a, b in zip(
        loss_time.masks(inputs, boxes),
        loss_time.masks_by_loop(inputs, boxes),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_plain_forms_compute_the_same(loss_time):
    """And so do mmrazor's classes that are not of another scale."""
    args = argparse.Namespace(
        size=[64, 64], boxes=1, device='cpu', dtype='float32'
    )
    torch.manual_seed(0)
    rows = loss_time.classifier_rows(loss_time.Inputs(args), 64)
    other = {
        # Of random negatives; divided by 1000.
        'CRDLoss', 'OFDLoss',
    }  # fmt: skip
    compared = 0
    for name, row in rows.items():
        if row.rival and name not in other:
            rival = rows[row.rival]
            torch.testing.assert_close(
                row.loss(row.connect(row.student), row.teacher),
                rival.loss(rival.connect(rival.student), rival.teacher),
                rtol=1e-4,
                atol=1e-6,
                msg=lambda text, name=name: f'{name}: {text}',
            )
            compared += 1
    assert compared == 18
