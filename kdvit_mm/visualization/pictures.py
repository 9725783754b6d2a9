"""Predictions side by side, drawn by the task packages' own visualizers."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer


def draw_sample(
    visualizer: Visualizer, sample: BaseDataElement, truth: bool
) -> np.ndarray:
    """Draws the ground truth or the prediction of one image.

    Args:
        visualizer (Visualizer): The visualizer of mmdet, mmseg or mmpretrain
            with its ``dataset_meta`` set.
        sample (BaseDataElement): A data sample with prediction and image path.
        truth (bool): Whether to draw the ground truth, not the prediction.

    Returns:
        np.ndarray: RGB image of shape (H, W, 3).
    """
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    options: dict[str, Any] = {'draw_gt': truth, 'draw_pred': not truth}
    if hasattr(visualizer, 'visualize_cls'):
        drawn: np.ndarray = visualizer.visualize_cls(
            image, sample, rescale_factor=6, **options
        )
        return drawn
    if hasattr(sample, 'pred_instances'):
        options['pred_score_thr'] = 0.3
    else:
        options['with_labels'] = False
    visualizer.add_datasample('sample', image, sample, **options)
    return visualizer.get_image()


def plot_grid(
    rows: list[list[np.ndarray]], titles: list[str], file: str | Path
) -> None:
    """Writes pictures side by side, one row per image.

    Args:
        rows (list[list[np.ndarray]]): RGB images of shape (H, W, 3).
        titles (list[str]): Titles of the columns.
        file (str | Path): Picture file to write.
    """
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(3 * len(titles), 3 * len(rows)),
        squeeze=False,
        tight_layout=True,
    )
    for row, images in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image)
            axis.axis('off')
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)
