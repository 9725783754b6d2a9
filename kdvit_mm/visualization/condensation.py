"""Pictures of which samples a condensation kept."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

#: States of a sample and their colours.
STATES = {'dropped': '#d9d9d9', 'kept': '#4c78a8', 'kept, mixed': '#f58518'}
#: Rows of the picture of all samples.
MAX_ROWS = 1000


def draw_condensation(
    scores: np.ndarray, history: np.ndarray, partners: np.ndarray
) -> np.ndarray:
    """Draws the state of every sample after every step, and the scores.

    Args:
        scores (np.ndarray): Score of each sample, of shape (N,).
        history (np.ndarray): Whether it was kept by each step, booleans of
            shape (T, N).
        partners (np.ndarray): What was mixed into it by each step that
            dropped samples, -1 for nothing, of shape (T', N).

    Returns:
        np.ndarray: The picture, RGB of shape (H, W, 3).
    """
    states = sample_states(history, partners)
    figure = Figure(figsize=(10, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    order = np.argsort(-scores, kind='stable')
    rows = order[:: -(-len(order) // MAX_ROWS)]
    left.imshow(
        states[:, rows].T,
        cmap=ListedColormap([*STATES.values()]),
        vmin=0,
        vmax=len(STATES) - 1,
        aspect='auto',
        interpolation='nearest',
        extent=(0.5, len(states) + 0.5, len(order), 0),
    )
    left.set(
        title='who is kept',
        xlabel='step',
        ylabel='samples, the most valuable first',
        xticks=range(1, len(states) + 1),
    )
    finite = np.isfinite(scores)
    right.hist(
        [scores[finite & (states[-1] == i)] for i in range(len(STATES))],
        bins=40,
        stacked=True,
        color=[*STATES.values()],
    )
    right.set(title='after the last step', xlabel='value', ylabel='samples')
    handles = [
        Patch(color=color, label=name) for name, color in STATES.items()
    ]
    right.legend(handles=handles)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sample_states(history: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The state of every sample after every step.

    Args:
        history (np.ndarray): As in :func:`draw_condensation`.
        partners (np.ndarray): As in :func:`draw_condensation`.

    Returns:
        np.ndarray: Indices into ``STATES``, of shape (T, N).
    """
    steps = min(len(history), len(partners))
    mixed = np.zeros_like(history)
    mixed[:steps] = partners[:steps] >= 0
    # What is mixed stays mixed.
    mixed = np.logical_or.accumulate(mixed)
    return np.where(history, 1 + mixed, 0)
