import json
from pathlib import Path

import mmcv
import numpy as np
import pytest

from kdvit_mm.selection.plots import (
    NothingToPlot,
    Operation,
    last_decisions,
    operation,
    plot_frontier,
    plot_image,
    plot_rates,
    plot_scalars,
    plot_selection,
    rates_by_count,
    rates_by_size,
    read_decisions,
)


def decision(iteration: int, levels: list[int], **others) -> dict:
    return {
        'iter': iteration,
        'image': 7,
        'sizes': [9.0, 30.0],
        'levels': levels,
        'applied': levels,
        'probabilities': [0.5] * len(levels),
        'quality': [0.1 if chosen else None for chosen in levels],
        'cost': 0.5,
    } | others


def write(folder: Path, lines: list) -> Path:
    folder.mkdir(exist_ok=True)
    text = [x if isinstance(x, str) else json.dumps(x) for x in lines]
    (folder / 'levels.jsonl').write_text('\n'.join(text))
    return folder


def test_decisions_are_read_as_far_as_they_are_whole(tmp_path):
    both = [decision(0, [1, 0]), decision(1, [0, 1])]
    half = json.dumps(decision(2, [1, 1]))[:40]
    assert read_decisions(write(tmp_path / 'a', [*both, half])) == both
    with pytest.raises(ValueError, match=r'levels\.jsonl: line 2 .* Delete'):
        read_decisions(write(tmp_path / 'b', [both[0], half, both[1]]))
    with pytest.raises(NothingToPlot, match='no decision yet'):
        read_decisions(write(tmp_path / 'c', [half]))
    with pytest.raises(NothingToPlot, match='dump=True'):
        read_decisions(tmp_path)


def test_what_a_resumed_run_repeated_counts_once(tmp_path):
    first = [decision(i, [1, 0], image=n) for i in range(4) for n in (1, 2)]
    again = [decision(i, [0, 1], image=n) for i in (2, 3) for n in (1, 2)]
    found = read_decisions(write(tmp_path, first + again))
    assert found == first[:4] + again


def test_the_last_part_is_a_share_of_the_iterations():
    decisions = [decision(i, [1]) for i in range(20, 60)]
    found = last_decisions(decisions)
    assert [d['iter'] for d in found] == list(range(50, 60))
    assert last_decisions(decisions[:1]) == decisions[:1]


def test_rates_by_count_and_by_size_of_the_objects():
    decisions = [
        decision(0, [1, 0], sizes=[]),
        decision(0, [1, 1], sizes=[10.0, 20.0, 20.0]),
        decision(1, [0, 1], sizes=[10.0] * 4),
        decision(1, [0, 1], sizes=[600.0] * 30),
    ]
    by_count = rates_by_count(decisions)
    assert by_count.labels == ['0', '3-4', '17+']
    assert by_count.counts == [1, 2, 1]
    assert by_count.rates.tolist() == [[1, 0], [0.5, 1], [0, 1]]
    by_size = rates_by_size(decisions)
    assert by_size.labels == ['8-15', '16-31', '512+']
    # Of the five objects below 16 px, one is in an image with level 0.
    assert by_size.counts == [5, 2, 30]
    assert by_size.rates.tolist() == [[0.2, 1], [1, 1], [0, 1]]
    for found in (by_count, by_size):
        axis = plot_rates(found, 'objects', 'images').axes[0]
        assert np.array_equal(axis.images[0].get_array(), found.rates.T)
        ticks = [label.get_text() for label in axis.get_xticklabels()]
        assert ticks[0] == f'{found.labels[0]}\n{found.counts[0]} images'
    unknown = [decision(0, [1, 0])]
    del unknown[0]['sizes']
    for rates in (rates_by_count, rates_by_size):
        with pytest.raises(NothingToPlot, match='data_samples'):
            rates(unknown)


def test_selection_over_training_goes_where_the_decisions_go():
    decisions = [decision(i, [1, int(i >= 200)]) for i in range(400)]
    axis = plot_selection(decisions).axes[0]
    always, late = axis.lines
    assert len(always.get_xdata()) == 40
    assert set(always.get_ydata()) == {1.0}
    assert late.get_ydata().tolist() == [0.0] * 20 + [1.0] * 20
    assert late.get_xdata()[0] == 4.5
    assert len(plot_selection(decisions[:3]).axes[0].lines) == 2


def test_scalars_are_drawn_with_their_running_mean():
    records = [
        {'step': i, 'levels/regret_policy': float(i % 2), 'loss': 1.0}
        for i in range(40)
    ]
    records[3]['levels/regret_all'] = 2.0
    figure = plot_scalars(records, 'levels/regret_', 'regret', 'none')
    lines = figure.axes[0].lines
    named = {line.get_label(): line for line in lines}
    assert named['all'].get_xydata().tolist() == [[3, 2]]
    mean = named['policy'].get_ydata()
    assert mean[1:] == pytest.approx([0.5] * 39)
    assert lines[3].get_ydata().tolist() == [0, 1] * 20
    cost = plot_scalars(
        [{'step': 1, 'levels/cost': 0.5}], 'levels/cost', '', ''
    )
    assert cost.axes[0].lines[0].get_label() == 'cost'
    with pytest.raises(NothingToPlot, match='train with it'):
        plot_scalars(records, 'levels/weight_', '', 'train with it')


def test_frontier_has_a_point_a_run():
    decisions = [
        decision(0, [1, 1], quality=[0.3, 0.1], cost=1.0),
        # All levels were distilled, but not chosen.
        decision(1, [0, 1], quality=[0.3, 0.2], cost=0.25),
        # Not known: left out of the quality, not of the cost.
        decision(2, [0, 1], quality=[0.3, None], cost=0.25),
    ]
    found = operation('seed_0', 'PPOLevels', 0.3, decisions, 0.2)
    assert found.quality == pytest.approx((0.4 + 0.2) / 2 / 0.2)
    assert found.cost == pytest.approx(0.5)
    other = Operation('all', 'AllLevels', 0.0, 1.0, 1.0)
    axis = plot_frontier([found, other]).axes[0]
    points = {x.get_label(): x.get_xydata().tolist() for x in axis.lines}
    assert points['AllLevels'] == [[1, 1]]
    assert points['PPOLevels'] == [pytest.approx([0.5, 1.5])]
    assert [text.get_text().split() for text in axis.texts] == [
        ['λ', '0.3', 'seed_0'],
        ['λ', '0', 'all'],
    ]


def test_chosen_levels_of_an_image_are_marked(tmp_path):
    maps = [np.random.default_rng(i).random((8 >> i, 8 >> i)) for i in (0, 1)]
    figure = plot_image(
        np.zeros((64, 64, 3), np.uint8),
        np.array([[1, 2, 31, 12], [0, 0, 9, 9]], float),
        {'student': maps, 'teacher': maps},
        [False, True],
        ['level 0', 'level 1'],
    )
    picture, *levels = figure.axes
    assert len(figure.axes) == 6
    boxes = [patch.get_bbox().extents.tolist() for patch in picture.patches]
    assert boxes == [[1, 2, 31, 12], [0, 0, 9, 9]]
    titles = [axis.get_title() for axis in levels]
    assert titles[:2] == ['level 0', 'chosen: level 1']
    shown = [axis for axis in levels if axis.images]
    assert [axis.images[0].get_array().shape for axis in shown] == [
        (8, 8), (4, 4), (8, 8), (4, 4)
    ]  # fmt: skip
    red = [axis.spines['left'].get_edgecolor()[:3] for axis in shown]
    assert [colour == (1.0, 0.0, 0.0) for colour in red] == [False, True] * 2
    figure.savefig(tmp_path / 'image.png')
    assert mmcv.imread(tmp_path / 'image.png').std() > 0
