import numpy as np

from kdvit_mm.visualization import draw_condensation
from kdvit_mm.visualization.condensation import STATES, sample_states

#: Four samples and three steps, of which the last drops nothing.
HISTORY = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], bool)
PARTNERS = np.array([[-1, -1, 3, -1], [-1, 2, -1, -1]])


def test_what_is_mixed_stays_mixed():
    names = [*STATES]
    states = [
        [names[i] for i in row] for row in sample_states(HISTORY, PARTNERS)
    ]
    assert states == [
        ['kept', 'kept', 'kept, mixed', 'dropped'],
        ['kept', 'kept, mixed', 'dropped', 'dropped'],
        ['kept', 'kept, mixed', 'dropped', 'dropped'],
    ]


def colour(name: str) -> list[int]:
    return [int(STATES[name][i : i + 2], 16) for i in (1, 3, 5)]


def test_picture_has_a_place_for_every_state():
    scores = np.array([3.0, np.inf, 1.0, 0.5])
    picture = draw_condensation(scores, HISTORY, PARTNERS)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    left = picture[:, : picture.shape[1] // 2].reshape(-1, 3)
    shares = {name: (left == colour(name)).all(1).mean() for name in STATES}
    # 5, 4 and 3 of 12 fields.
    assert shares['dropped'] / shares['kept'] == np.clip(
        shares['dropped'] / shares['kept'], 1.15, 1.35
    )
    assert 0 < shares['kept, mixed'] < shares['kept']
