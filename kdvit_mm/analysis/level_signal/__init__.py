"""Is there anything to learn for a choice of levels for each image?

Draws of the augmentation repeat the measurement of an image: what differs
between them is noise to a choice made for the image. Qualities are tensors of
shape (n, R, L): image, draw, level.
"""

from kdvit_mm.analysis.level_signal.measurement import (
    Signal,
    build_dataloader,
    describe_objects,
    load_trained,
    measure,
    selected_loss_config,
)
from kdvit_mm.analysis.level_signal.report import Report, analyse
from kdvit_mm.analysis.level_signal.rivals import (
    Rival,
    boosting,
    compare_rivals,
    explained,
    predict_held_out,
    remember,
    ridge,
    split_images,
)
from kdvit_mm.analysis.level_signal.statistics import (
    Components,
    Headroom,
    LevelSummary,
    find_headroom,
    summarise_levels,
    variance_components,
)

__all__ = [
    'Components',
    'Headroom',
    'LevelSummary',
    'Report',
    'Rival',
    'Signal',
    'analyse',
    'boosting',
    'build_dataloader',
    'compare_rivals',
    'describe_objects',
    'explained',
    'find_headroom',
    'load_trained',
    'measure',
    'predict_held_out',
    'remember',
    'ridge',
    'selected_loss_config',
    'split_images',
    'summarise_levels',
    'variance_components',
]
