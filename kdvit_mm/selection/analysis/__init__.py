"""Is there anything to learn for a choice of levels for each image?

Draws of the augmentation repeat the measurement of an image: what differs
between them is noise to a choice made for the image. Qualities are tensors of
shape (n, R, L): image, draw, level.
"""

from kdvit_mm.selection.analysis.measurement import (
    Signal,
    measure,
    selected_loss_config,
)
from kdvit_mm.selection.analysis.report import Report, analyse

__all__ = ['Report', 'Signal', 'analyse', 'measure', 'selected_loss_config']
