"""Is there anything to learn for a choice of levels for each image?

Draws of the augmentation repeat the measurement of an image: what differs
between them is noise to a choice made for the image. Qualities are tensors of
shape (n, R, L): image, draw, level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from kdvit_mm.analysis.configs import dataloader_config, model_config
from kdvit_mm.models.selectors.benefits import level_benefits
from kdvit_mm.models.selectors.learning import above_price
from kdvit_mm.models.selectors.state import level_statistics
from kdvit_mm.models.utils.random import isolated_rng

STUDENT = 'architecture.'
#: Objects are counted by octave of their side: below 8 px, ..., from 512 px.
OCTAVES = (2, 9)
#: Half of a 95 % interval in standard errors.
INTERVAL = 1.96


@dataclass
class Signal:
    """What was measured on some images.

    Attributes:
        quality (torch.Tensor): Quality of each level, of shape (n, R, L).
        costs (torch.Tensor): Each level's share of the cost, of shape (L,),
            the mean over the batches.
        state (torch.Tensor): What a policy sees, of shape (n, R, D).
        truth (torch.Tensor): Number of objects, in all and by octave of their
            side, of shape (n, R, 9).
        images (torch.Tensor): Their places in the data set, of shape (n,).
        num_excluded (int): Images left out as one of these is not finite.
    """

    quality: torch.Tensor
    costs: torch.Tensor
    state: torch.Tensor
    truth: torch.Tensor
    images: torch.Tensor
    num_excluded: int


@dataclass
class LevelSummary:
    """Quality of a level.

    Attributes:
        mean (float): Its mean.
        std (float): Its standard deviation over images and draws.
        positive (float): Share of images and draws where it is above 0.
        image_share (float): Share of its variance that is the image's; the
            rest differs between the draws of an image.
        cost (float): Share of the level in all levels' cost.
    """

    mean: float
    std: float
    positive: float
    image_share: float
    cost: float


@dataclass
class Components:
    """Variance components of quality; their sum is its variance.

    Attributes:
        level (float): Of the levels' means.
        image (float): Of the images' means over the levels.
        interaction (float): Of what an image and a level have beyond.
        noise (float): Between draws of an image.
        clamped (list[str]): Components whose estimate was below 0.
    """

    level: float
    image: float
    interaction: float
    noise: float
    clamped: list[str]


@dataclass
class Headroom:
    """Worth of sets of levels, in deviations of quality, mean over images.

    Attributes:
        lambda_cost (float): Price of all levels' cost.
        all_levels (float): Worth of all levels.
        fixed (float): Of the best set that is the same for all images.
        fixed_levels (list[int]): This set.
        fixed_cost (float): Its share of the cost.
        best (float): Of the best set of each image and draw. Part of it is
            noise that happened to be good.
        best_cost (float): Mean share of these sets' cost.
        honest_fixed (float): As ``fixed``, found on the other draws.
        honest_best (float): As ``best``, found on the mean of the image's
            other draws.
        honest_interval (float): Half of the 95 % interval of
            ``honest_headroom``, over images.
    """

    lambda_cost: float
    all_levels: float
    fixed: float
    fixed_levels: list[int]
    fixed_cost: float
    best: float
    best_cost: float
    honest_fixed: float
    honest_best: float
    honest_interval: float

    @property
    def headroom(self) -> float:
        """What the best sets are worth beyond the fixed set."""
        return self.best - self.fixed

    @property
    def honest_headroom(self) -> float:
        """The same without noise; below 0 where noise decides."""
        return self.honest_best - self.honest_fixed


@dataclass
class Rival:
    """What a way of choosing reaches on images it was not fitted on.

    Attributes:
        worth (float): In deviations of quality, mean over images.
        gain (float): Beyond the best fixed set.
        interval (float): Half of the 95 % interval of ``gain``, over images.
        cost (float): Mean share of the cost.
    """

    worth: float
    gain: float
    interval: float
    cost: float


def selected_loss_config(cfg: Config) -> ConfigDict:
    """The config of the one ``SelectedLevelsLoss`` in a config.

    Args:
        cfg (Config): The config.

    Returns:
        ConfigDict: That of the loss; changes to it change ``cfg``.

    Raises:
        ValueError: If there is none, or more than one.
    """
    losses = cfg.model.get('distiller', {}).get('distill_losses', {})
    found = [
        loss
        for loss in losses.values()
        if 'SelectedLevelsLoss' in str(loss['type'])
    ]
    if len(found) != 1:
        raise ValueError(
            f'model.distiller.distill_losses of {cfg.filename} has '
            f'{len(found)} losses of type SelectedLevelsLoss instead of one. '
            'Take a config such as configs/demo/rl_fpn_*.py.'
        )
    return found[0]


def build_algorithm(cfg: Config) -> BaseModel:
    """Builds student, teacher and distiller without a trained student.

    Args:
        cfg (Config): Config of a distillation, in whose default scope this
            has to run.

    Returns:
        BaseModel: The algorithm; what initialises the student is left out.
    """
    algorithm = MODELS.build(model_config(cfg))
    algorithm.distiller.init_weights()
    algorithm.teacher.init_weights()
    return algorithm


def load_trained(algorithm: BaseModel, checkpoint: str) -> list[str]:
    """Loads a student, and the distiller as far as the checkpoint has it.

    Args:
        algorithm (BaseModel): The algorithm.
        checkpoint (str): File or URL of a checkpoint of the algorithm or of
            its student alone.

    Returns:
        list[str]: Keys of the distiller that the checkpoint lacks.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it does not fit the student or the selector.
    """
    loaded = _load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    state = loaded.get('state_dict', loaded)
    state = {key.removeprefix('module.'): x for key, x in state.items()}
    if not any(key.startswith(STUDENT) for key in state):
        state = {STUDENT + key: x for key, x in state.items()}
    try:
        missing, unexpected = algorithm.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit: {error}') from error
    wrong = [
        [key.removeprefix(STUDENT) for key in keys if key.startswith(STUDENT)]
        for keys in (missing, unexpected)
    ]
    if any(wrong):
        raise ValueError(
            f'{checkpoint} does not fit model.architecture '
            f'({type(algorithm.architecture).__name__}): {len(wrong[0])} keys '
            f'missing {wrong[0][:3]}, {len(wrong[1])} unexpected '
            f'{wrong[1][:3]}. Give the config that it was trained with.'
        )
    return [key for key in missing if key.startswith('distiller.')]


def build_dataloader(cfg: Config, split: str) -> DataLoader:
    """Builds a data loader of a config, without workers.

    Args:
        cfg (Config): The config, in whose default scope this has to run.
        split (str): 'train', 'val' or 'test'.

    Returns:
        DataLoader: The data loader.
    """
    return Runner.build_dataloader(dataloader_config(cfg, split))


def measure(
    algorithm: BaseModel,
    dataloader: DataLoader,
    num_images: int,
    num_draws: int,
    seed: int = 0,
) -> Signal:
    """Measures the quality of each level on several draws of some images.

    Args:
        algorithm (BaseModel): The algorithm; it stays as it is.
        dataloader (DataLoader): Gives the data set with its pipeline, the
            collate function and the batch size. Sampler and workers are not
            used.
        num_images (int): Number of images, drawn at random; all if there are
            fewer.
        num_draws (int): Draws of each image, R.
        seed (int): Seed of images and augmentation: with the same one, other
            weights are measured on the same pixels. Defaults to 0.

    Returns:
        Signal: What was measured.

    Raises:
        ValueError: If not even two images are left.
    """
    dataset: Any = dataloader.dataset
    draws, costs = [], []
    with isolated_rng(seed):
        images = torch.randperm(len(dataset))[:num_images]
        for _ in range(num_draws):
            # In other company each time: what a loss takes from the batch is
            # not the image's.
            order = torch.randperm(len(images))
            rows = []
            for part in images[order].split(dataloader.batch_size):
                data = dataloader.collate_fn(
                    [dataset[i] for i in part.tolist()]
                )
                found = level_benefits(algorithm, data)
                state = level_statistics(*found.pyramids).flatten(1)
                truth = torch.stack(
                    [describe_objects(x) for x in data['data_samples']]
                )
                tensors = found.quality, state, truth
                rows.append([x.cpu().double() for x in tensors])
                costs.append(found.costs.cpu().double())
            draw = [torch.cat(column) for column in zip(*rows, strict=True)]
            draws.append([x[order.argsort()] for x in draw])
    quality, state, truth = (
        torch.stack(column, 1) for column in zip(*draws, strict=True)
    )
    known = torch.cat([quality, state], 2).isfinite().flatten(1).all(1)
    if known.sum() < 2:
        raise ValueError(
            f'{int(known.sum())} of {len(known)} images have finite maps and '
            'gradients of both losses; at least 2 are needed. Give more '
            'images, and check the losses with tools/analysis/doctor.py.'
        )
    return Signal(
        quality=quality[known],
        costs=torch.stack(costs).mean(0),
        state=state[known],
        truth=truth[known],
        images=images[known],
        num_excluded=int((~known).sum()),
    )


def describe_objects(sample: Any) -> torch.Tensor:
    """Counts the objects of an image, in all and by octave of their side.

    An FPN's levels are octaves apart: the counts are those of the objects
    that each level is assigned, whatever the assignment starts from.

    Args:
        sample (Any): A data sample with ``gt_instances.bboxes``, a tensor or
            mmdet's boxes.

    Returns:
        torch.Tensor: Counts of shape (9,). A side is the root of the area.
    """
    boxes = sample.gt_instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    first, last = OCTAVES
    octaves = sides.clamp(min=1).log2().long().clamp(first, last) - first
    counts = torch.bincount(octaves, minlength=last - first + 1)
    return torch.cat([counts.new_tensor([len(boxes)]), counts])


def summarise_levels(
    quality: torch.Tensor, costs: torch.Tensor
) -> list[LevelSummary]:
    """Describes the quality of each level.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).

    Returns:
        list[LevelSummary]: One a level.
    """
    signal, noise = (x.diagonal() for x in _covariances(quality))
    signal = signal.clamp(min=0)
    flat = quality.flatten(0, 1)
    columns = (
        flat.mean(0),
        flat.std(0),
        (flat > 0).double().mean(0),
        signal / (signal + noise).clamp(min=torch.finfo(signal.dtype).tiny),
        costs,
    )
    return [
        LevelSummary(*numbers)
        for numbers in zip(*(x.tolist() for x in columns), strict=True)
    ]


def variance_components(quality: torch.Tensor) -> Components:
    """Splits the variance of quality into its sources.

    Images are a sample; the levels are all there are, so that interactions
    sum to 0 over them. The estimates are unbiased before they are clamped at
    0, whatever the distributions, also where levels differ in noise or share
    it. On balanced data they are those of the analysis of variance.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), n and R at
            least 2.

    Returns:
        Components: The variance components.

    Raises:
        ValueError: If there are not two images, or two draws of each.
    """
    signal, noise = _covariances(quality)
    means = quality.mean(1)
    of_means = torch.cov(means.T) / len(means)
    level = means.mean(0).var(unbiased=False)
    components = {
        # Less what the levels' means scatter by chance.
        'level': level - of_means.diagonal().mean() + of_means.mean(),
        'image': signal.mean(),
        'interaction': signal.diagonal().mean() - signal.mean(),
        'noise': noise.diagonal().mean(),
    }
    return Components(
        **{name: max(0.0, float(x)) for name, x in components.items()},
        clamped=[name for name, x in components.items() if x < 0],
    )


def _covariances(quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances between levels of the images' means and of the noise."""
    images, draws = quality.shape[:2]
    if images < 2 or draws < 2:
        raise ValueError(
            f'{images} images with {draws} draws each: the noise is what '
            'differs between draws of an image, so take two or more of both.'
        )
    deviations = (quality - quality.mean(1, keepdim=True)).flatten(0, 1)
    noise = deviations.T @ deviations / (images * (draws - 1))
    return torch.cov(quality.mean(1).T) - noise / draws, noise


def find_headroom(
    quality: torch.Tensor, costs: torch.Tensor, lambda_cost: float
) -> Headroom:
    """Compares the best set of each image with the best for all.

    The true headroom, that of who knows what an image's draws have in common,
    lies between the honest one and that on single draws.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        lambda_cost (float): Price of all levels' cost, in deviations of
            quality over images, draws and levels.

    Returns:
        Headroom: Worth of the sets; none is empty.
    """
    worth = _worth(quality, costs, lambda_cost)
    others = _other_draws(worth)
    best, fixed = above_price(worth), above_price(worth.mean((0, 1)))
    honest_best = above_price(others)
    honest_fixed = above_price(others.mean(0, keepdim=True))
    gains = (worth * honest_best).sum(2) - (worth * honest_fixed).sum(2)
    return Headroom(
        lambda_cost=lambda_cost,
        all_levels=_mean_worth(worth, torch.ones_like(best)),
        fixed=_mean_worth(worth, fixed),
        fixed_levels=fixed.nonzero().flatten().tolist(),
        fixed_cost=float(fixed.double() @ costs),
        best=_mean_worth(worth, best),
        best_cost=float((best.double() @ costs).mean()),
        honest_fixed=_mean_worth(worth, honest_fixed),
        honest_best=_mean_worth(worth, honest_best),
        honest_interval=_interval(gains),
    )


def _worth(
    quality: torch.Tensor, costs: torch.Tensor, lambda_cost: float
) -> torch.Tensor:
    return quality / _deviation(quality) - lambda_cost * costs


def _deviation(quality: torch.Tensor) -> torch.Tensor:
    return quality.std().clamp(min=1e-12)


def _other_draws(worth: torch.Tensor) -> torch.Tensor:
    """For each draw the mean of the image's other draws."""
    return (worth.sum(1, keepdim=True) - worth) / (worth.size(1) - 1)


def _mean_worth(worth: torch.Tensor, chosen: torch.Tensor) -> float:
    return float((worth * chosen).sum(2).mean())


def _interval(gains: torch.Tensor) -> float:
    """Half of the 95 % interval of a mean of shape (n, R), over images."""
    return float(INTERVAL * gains.mean(1).std() / len(gains) ** 0.5)


def ridge(groups: np.ndarray) -> BaseEstimator:
    """Ridge regression whose penalty is found by cross-validation.

    Args:
        groups (np.ndarray): The image of each sample: one image's draws are
            never on both sides.

    Returns:
        BaseEstimator: The model, not fitted.
    """
    splits = GroupKFold(min(5, len(np.unique(groups)))).split(
        groups, groups=groups
    )
    return GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {'ridge__alpha': np.logspace(0, 6, 7)},
        scoring='neg_mean_squared_error',
        cv=list(splits),
    )


def boosting(groups: np.ndarray) -> BaseEstimator:
    """A small gradient boosting.

    Args:
        groups (np.ndarray): Not used.

    Returns:
        BaseEstimator: The model, not fitted.
    """
    return HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=50,
        max_depth=3,
        early_stopping=False,
        random_state=0,
    )


def split_images(
    num_images: int, held_out: float, seed: int = 0
) -> torch.Tensor:
    """Deals images out to folds, each of which is held out once.

    Args:
        num_images (int): Number of images, n.
        held_out (float): Share of a fold.
        seed (int): Seed of the deal. Defaults to 0.

    Returns:
        torch.Tensor: The fold of each image, of shape (n,).
    """
    folds = min(num_images, max(2, round(1 / held_out)))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_images, generator=generator) % folds


def predict_held_out(
    features: torch.Tensor,
    quality: torch.Tensor,
    folds: torch.Tensor,
    model: Callable[[np.ndarray], BaseEstimator],
) -> torch.Tensor:
    """Predicts each level's quality of images not fitted on.

    Args:
        features (torch.Tensor): What it is predicted from, of shape
            (n, R, K).
        quality (torch.Tensor): Quality with shape (n, R, L).
        folds (torch.Tensor): The fold of each image, of shape (n,).
        model (Callable): :func:`ridge` or :func:`boosting`.

    Returns:
        torch.Tensor: Predictions with shape (n, R, L).
    """
    predicted = torch.empty_like(quality)
    for fold in folds.unique():
        held = folds == fold
        seen, asked = (
            features[part].flatten(0, 1).numpy() for part in (~held, held)
        )
        groups = np.arange(int((~held).sum())).repeat(quality.size(1))
        for level in range(quality.size(2)):
            fitted = model(groups).fit(
                seen, quality[~held][..., level].flatten().numpy()
            )
            found = torch.from_numpy(fitted.predict(asked))
            predicted[held, :, level] = found.reshape(-1, quality.size(1))
    return predicted


def explained(
    predicted: torch.Tensor, quality: torch.Tensor
) -> list[float | None]:
    """R² of each level's predictions.

    Args:
        predicted (torch.Tensor): Predictions with shape (n, R, L).
        quality (torch.Tensor): Quality of the same shape.

    Returns:
        list[float | None]: One a level: 1 at best, 0 for a constant, None
        where the level's quality does not vary.
    """
    errors = (quality - predicted).square().sum((0, 1))
    scatter = (quality - quality.mean((0, 1))).square().sum((0, 1))
    return [
        float(1 - error / total) if total > 0 else None
        for error, total in zip(errors, scatter, strict=True)
    ]


def compare_rivals(
    quality: torch.Tensor,
    costs: torch.Tensor,
    lambda_cost: float,
    folds: torch.Tensor,
    predictions: Mapping[str, torch.Tensor],
) -> dict[str, Rival]:
    """Compares ways of choosing on images that they were not fitted on.

    Args:
        quality (torch.Tensor): Quality with shape (n, R, L), R at least 2.
        costs (torch.Tensor): Each level's share of the cost, of shape (L,).
        lambda_cost (float): Price of all levels' cost.
        folds (torch.Tensor): The fold of each image, of shape (n,).
        predictions (Mapping[str, torch.Tensor]): What
            :func:`predict_held_out` found, by name.

    Returns:
        dict[str, Rival]: By name: all levels, the best fixed set of the
        images outside the fold, the sets that each prediction finds best, and
        the best set of each image on its other draws and on the draw itself.
    """
    worth = _worth(quality, costs, lambda_cost)
    fixed = torch.zeros_like(worth, dtype=torch.bool)
    for fold in folds.unique():
        held = folds == fold
        fixed[held] = above_price(worth[~held].mean((0, 1)))
    prices = lambda_cost * costs
    choices = {
        'all levels': torch.ones_like(fixed),
        'best fixed set': fixed,
        **{
            name: above_price(predicted / _deviation(quality) - prices)
            for name, predicted in predictions.items()
        },
        "best of the image's other draws": above_price(_other_draws(worth)),
        'best of the draw itself': above_price(worth),
    }
    reference = (worth * fixed).sum(2)
    rivals = {}
    for name, chosen in choices.items():
        gains = (worth * chosen).sum(2) - reference
        rivals[name] = Rival(
            worth=_mean_worth(worth, chosen),
            gain=float(gains.mean()),
            interval=_interval(gains),
            cost=float((chosen.double() @ costs).mean()),
        )
    return rivals


def remember(earlier: Sequence[Signal], now: Signal) -> torch.Tensor:
    """Predicts quality by that of the same images at earlier checkpoints.

    Only other draws of the image are looked at, as a run sees other ones.

    Args:
        earlier (Sequence[Signal]): Earlier measurements of the images.
        now (Signal): The one to predict, with R at least 2 draws.

    Returns:
        torch.Tensor: Predictions of shape (n, R, L): of k values known of an
        image and level, their mean drawn by 1 / (k + 1) to the level's.
    """
    shape = (int(now.images.max()) + 1, *now.quality.shape[1:])
    total, number = torch.zeros(2, *shape, dtype=now.quality.dtype)
    for signal in earlier:
        inside = signal.images < len(total)
        values = signal.quality[inside] / _deviation(signal.quality)
        others = values.sum(1, keepdim=True) - values
        total[signal.images[inside]] += others
        number[signal.images[inside]] += values.size(1) - 1
    level = total.sum((0, 1)) / number.sum((0, 1)).clamp(min=1)
    total, number = total[now.images], number[now.images]
    predicted = (total + level) / (number + 1)
    return predicted * _deviation(now.quality)


@dataclass
class Report:
    """What level_signal says about one state of a student.

    Attributes:
        num_images (int): Number of images, n.
        num_excluded (int): Images left out.
        levels (list[LevelSummary]): One a level.
        components (Components): Variance components.
        headroom (list[Headroom]): One a price.
        r2 (dict[str, list[float | None]]): R² a level by prediction.
        rivals (dict[float, dict[str, Rival]]): Ways of choosing by price.
    """

    num_images: int
    num_excluded: int
    levels: list[LevelSummary]
    components: Components
    headroom: list[Headroom]
    r2: dict[str, list[float | None]]
    rivals: dict[float, dict[str, Rival]]


def analyse(
    signal: Signal,
    prices: Sequence[float],
    held_out: float,
    seed: int = 0,
    earlier: Sequence[Signal] = (),
) -> Report:
    """Computes all statistics of a measurement.

    Args:
        signal (Signal): The measurement.
        prices (Sequence[float]): Prices λ of all levels' cost.
        held_out (float): Share of images that are held out at a time.
        seed (int): Seed of the split. Defaults to 0.
        earlier (Sequence[Signal]): Measurements of the same images at earlier
            checkpoints. Defaults to none.

    Returns:
        Report: The statistics.
    """
    quality, costs = signal.quality, signal.costs
    folds = split_images(len(quality), held_out, seed)
    predictions = {
        f'{source}, {model.__name__}': predict_held_out(
            features, quality, folds, model
        )
        for source, features in (
            ('state', signal.state),
            ('ground truth', signal.truth),
        )
        for model in (ridge, boosting)
    }
    if earlier:
        predictions['memory of earlier checkpoints'] = remember(
            earlier, signal
        )
    return Report(
        num_images=len(quality),
        num_excluded=signal.num_excluded,
        levels=summarise_levels(quality, costs),
        components=variance_components(quality),
        headroom=[find_headroom(quality, costs, x) for x in prices],
        r2={name: explained(x, quality) for name, x in predictions.items()},
        rivals={
            x: compare_rivals(quality, costs, x, folds, predictions)
            for x in prices
        },
    )
