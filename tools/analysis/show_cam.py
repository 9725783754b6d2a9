"""Shows side by side where student and teacher see a class in images.

Class activation maps for classifiers that average their last map, Grad-CAM
for others. CHECKPOINT is one of the distillation CONFIG or of its student; the
teacher's is the config's model.teacher_ckpt.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmpretrain.models import ImageClassifier

from kdvit_mm.analysis.configs import build_algorithm, load_trained
from kdvit_mm.models.utils.student_config import (
    is_distillation,
    student_config,
)
from kdvit_mm.visualization.class_activation import activation_map
from kdvit_mm.visualization.pictures import plot_grid


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a distillation')
    parser.add_argument('checkpoint', help='its checkpoint or the student')
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument(
        '--label',
        type=int,
        help='index of the class; by default the one that the teacher finds '
        'most likely in each image',
    )
    parser.add_argument(
        '--student-layer', help='module of the student for Grad-CAM'
    )
    parser.add_argument(
        '--teacher-layer', help='module of the teacher for Grad-CAM'
    )
    parser.add_argument(
        '--out', default='work_dirs/cam.png', help='picture to write'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='changes to the config, as key=value',
    )
    return parser.parse_args()


def load_models(cfg: Config, checkpoint: str) -> BaseModel:
    """Builds a distillation of classifiers with its weights.

    Args:
        cfg (Config): Its config.
        checkpoint (str): File or URL of its checkpoint or of its student's.

    Returns:
        BaseModel: The algorithm in eval mode.

    Raises:
        ValueError: If the config is of something else, or the checkpoint does
            not fit.
    """
    if not is_distillation(cfg):
        raise ValueError(
            'CONFIG is not a distillation: its model has no teacher'
        )
    algorithm = build_algorithm(cfg, init_student=False)
    for key in ('architecture', 'teacher'):
        model = getattr(algorithm, key)
        if not isinstance(model, ImageClassifier):
            raise ValueError(
                f'model.{key} is a {type(model).__name__}; maps are shown of '
                "mmpretrain's ImageClassifier alone"
            )
    load_trained(algorithm, checkpoint)
    return algorithm.eval()


class Loader:
    """Prepares image files as the data set of a config does in tests.

    Args:
        cfg (Config): A config with the key 'test_dataloader'.
    """

    def __init__(self, cfg: Config) -> None:
        dataset = student_config(cfg).test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        steps = [
            step
            for step in dataset.pipeline
            if step['type'] != 'LoadImageFromFile'
        ]
        # Data sets that load their images themselves, as those of CIFAR, hand
        # over RGB.
        self.order = 'rgb' if len(steps) == len(dataset.pipeline) else 'bgr'
        self.transform = Compose(steps)

    def __call__(self, file: str) -> tuple[dict, np.ndarray]:
        """Prepares an image.

        Args:
            file (str): Its path.

        Returns:
            tuple[dict, np.ndarray]: What the data set would give, and the
            same image in RGB, of shape (H, W, 3) and from 0 to 1.

        Raises:
            ValueError: If the file is not an image.
        """
        image = mmcv.imread(file, channel_order=self.order)
        if image is None:
            raise ValueError(f'{file} is not an image')
        shape = image.shape[:2]
        sample = self.transform(
            {
                'img': image,
                'img_path': file,
                'img_shape': shape,
                'ori_shape': shape,
            }
        )
        pixels = sample['inputs'].permute(1, 2, 0).numpy() / 255
        return sample, pixels[..., ::-1] if self.order == 'bgr' else pixels


def show(
    algorithm: BaseModel, loader: Loader, file: str, args: argparse.Namespace
) -> list[np.ndarray]:
    """Draws an image and both maps, and prints both predictions."""
    sample, pixels = loader(file)
    batch = algorithm.data_preprocessor(pseudo_collate([sample]), False)
    image = batch['inputs']
    models = {'student': algorithm.architecture, 'teacher': algorithm.teacher}
    with torch.no_grad():
        scores = {
            name: model(image, mode='predict')[0].pred_score
            for name, model in models.items()
        }
    label = scores['teacher'].argmax().item()
    if args.label is not None:
        label = args.label
    last = min(map(len, scores.values())) - 1
    if not 0 <= label <= last:
        raise ValueError(f'label {label}: the classes are 0 to {last}')
    print(
        f'{file}: class {label}, '
        + ', '.join(f'{name} {x[label]:.3f}' for name, x in scores.items())
    )
    layers = {'student': args.student_layer, 'teacher': args.teacher_layer}
    maps = [
        activation_map(model, image, label, layers[name])
        for name, model in models.items()
    ]
    colours = mpl.colormaps['jet']
    return [pixels, *((pixels + colours(x)[..., :3]) / 2 for x in maps)]


def main() -> None:
    """Computes and draws the maps."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        algorithm = load_models(cfg, args.checkpoint)
        loader = Loader(cfg)
        rows = [show(algorithm, loader, file, args) for file in args.images]
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'show_cam: {error}')
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    plot_grid(rows, ['image', 'student', 'teacher'], args.out)
    print(args.out)


if __name__ == '__main__':
    main()
