"""Plots and pictures."""

from kdvit_mm.visualization.condensation import draw_condensation
from kdvit_mm.visualization.curves import plot_runs, read_scalars
from kdvit_mm.visualization.pictures import draw_sample, plot_grid

__all__ = [
    'draw_condensation',
    'draw_sample',
    'plot_grid',
    'plot_runs',
    'read_scalars',
]
