"""What a finished table says, on synthetic cells."""

import csv
import io
import json

import pytest

from kdvit_mm.benchmark.report import (
    Line,
    compare,
    list_doubts,
    list_teachers,
    render_csv,
    render_json,
    render_markdown,
)
from kdvit_mm.benchmark.table import read_table
from kdvit_mm.visualization.tables import plot_curves, plot_gaps
from tests.tables import write

FLAT = [(6, 20.0), (18, 29.5), (24, 30.0)]
RISING = [(6, 5.0), (18, 20.0), (24, 30.0)]


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.fixture
def table(tmp_path):
    return read_table(write(tmp_path / 'table.yaml', seeds=[0, 1, 2, 3]))


def make_lines() -> list[Line]:
    """A teacher, a student of 20, a rival of 24 and three methods."""

    def method(name, *values, **more):
        return Line(
            name, 4, by_seed(*values), against='alone', teacher='big',
            curves={0: FLAT}, **more,
        )  # fmt: skip

    rival = 'alone, equal time'
    lines = [
        Line('big', 1, {0: 40.0}, curves={0: [(4, 30.0), (8, 40.0)]}),
        Line('alone', 4, by_seed(19, 20, 20, 21), curves={0: FLAT}),
        method(rival, 23, 24, 24, 25.1),
        method('KD', 28.9, 30.1, 30, 31, rival=rival, step_ratio=1.5),
        method('AT', 20.1, 19.6, 20.3, 20.9, rival=rival),
        method('SP', 14, 15.1, 15, 16, rival=rival),
        method('FSP', 15, 16, rival=rival),
    ]
    compare(lines)
    return lines


def test_verdicts_of_known_effects():
    verdicts = {line.name: line.verdict for line in make_lines()}
    assert verdicts == {
        'big': '',
        'alone': '',
        'alone, equal time': 'gains',
        'KD': 'gains',
        'AT': 'no difference',
        'SP': 'loses',
        'FSP': 'too few seeds',
    }
    rivals = {line.name: line.rival_verdict for line in make_lines()}
    assert rivals == {
        'big': '',
        'alone': '',
        'alone, equal time': '',
        'KD': 'gains',
        'AT': 'loses',
        'SP': 'loses',
        'FSP': 'too few seeds',
    }


def test_gap_closed_is_the_share_of_the_teachers_distance():
    lines = {line.name: line for line in make_lines()}
    # 10 of 20 points.
    kd = lines['KD']
    assert kd.gap_closed.mean == pytest.approx(50)
    assert kd.gap_closed.half_width == pytest.approx(
        5 * kd.difference.half_width
    )
    assert lines['alone, equal time'].gap_closed.mean == pytest.approx(20.125)
    assert lines['big'].gap_closed is None
    lines['big'].values = {0: 15.0}
    lines['KD'].gap_closed = None
    compare([*lines.values()])
    assert lines['KD'].gap_closed is None, 'a teacher below its student'


def test_a_sound_table_has_no_doubts(table):
    assert list_doubts(table, make_lines()) == []


def test_a_small_gap_is_said(table):
    lines = make_lines()
    lines[0].values = {0: 29.0}
    (doubt,) = list_doubts(table, lines)
    assert doubt.startswith('The gap is small: big is +9.0 top-1 from alone')
    lines[0].values = {0: 30.0}
    assert list_doubts(table, lines) == []


def test_rows_that_have_not_converged_are_said(table):
    lines = make_lines()
    lines[1].curves = {0: RISING, 1: FLAT}  # 33 and 2 %
    lines[3].curves = {0: RISING}
    (doubt,) = list_doubts(table, lines)
    assert doubt == (
        'Not converged, 10 % of the final top-1 or more gained in the last '
        'quarter of the schedule: alone (18 %), KD (33 %).'
    )
    for line in lines:
        line.curves = {0: FLAT}
    lines[4].curves = {0: [(24, 30.0)]}
    (doubt,) = list_doubts(table, lines)
    assert doubt.startswith('Not known whether they have converged')
    assert doubt.endswith('(train_cfg.val_interval): AT.')


def test_a_teacher_that_was_still_gaining_is_said(table):
    lines = make_lines()
    lines[0].patience, lines[0].seconds = 2, {0: 60.0}
    (doubt,) = list_doubts(table, lines)
    assert 'big was still gaining when its schedule ended: 0 val' in doubt
    lines[0].curves = {0: [(4, 40.0), (8, 39.0), (12, 39.5)]}
    assert list_doubts(table, lines) == []
    (curve,) = list_teachers(table, lines[:1])
    assert curve == (
        'big, 60 s: 40.0 (4), 39.0 (8), 39.5 (12); the best checkpoint teaches'
    )


def test_all_that_is_known_is_in_the_files(table):
    lines = make_lines()
    lines[1].curves = {0: RISING}
    for line in lines:
        line.seconds = dict.fromkeys(line.values, 100.0)
    text = render_markdown(table, lines, {'seeds': '0 to 3'})
    (head,) = (x for x in text.splitlines() if x.startswith('| method'))
    assert [cell.strip() for cell in head.split('|')[1:-1]] == [
        'method', 'top-1', 'Δ top-1', 'verdict', 'Δ top-1 at equal time',
        'verdict at equal time', 'gap closed %', 'step time ratio', 'seconds',
        'n',
    ]  # fmt: skip
    (kd,) = (line for line in text.splitlines() if line.startswith('| KD'))
    cells = [cell.strip() for cell in kd.split('|')[1:-1]]
    assert cells[3] == cells[5] == 'gains' and cells[8:] == ['100', '4']
    assert cells[6].startswith('50 ± ')
    assert '\n- Not converged' in text
    assert '## Learning curves of the teachers' in text
    assert '- big, 100 s: 30.0 (4), 40.0 (8)' in text
    rows = list(csv.DictReader(io.StringIO(render_csv(table, lines))))
    assert rows[3]['verdict'] == rows[3]['verdict at equal time'] == 'gains'
    assert float(rows[3]['gap closed %']) == pytest.approx(50)
    assert float(rows[1]['gained in the last quarter']) > 0.3
    content = json.loads(render_json(table, lines, {}))
    assert content['lines'][3]['verdict'] == 'gains'
    assert content['lines'][3]['difference']['p_value'] < 0.001
    assert len(content['doubts']) == 1


def test_pictures(table, tmp_path):
    gaps, curves = tmp_path / 'gaps.png', tmp_path / 'curves.png'
    plot_gaps(make_lines(), gaps)
    plot_curves(make_lines(), 'top-1', curves)
    assert gaps.stat().st_size > 5000 and curves.stat().st_size > 5000
    nothing = tmp_path / 'nothing.png'
    plot_gaps([Line('alone', 1)], nothing)
    plot_curves([Line('alone', 1)], 'top-1', nothing)
    assert not nothing.exists()
