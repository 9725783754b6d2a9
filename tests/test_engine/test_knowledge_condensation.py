"""Knowledge condensation in whole trainings with real runners."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler

from kdvit_mm.engine.hooks import KnowledgeCondensationHook
from kdvit_mm.engine.hooks.knowledge_condensation_hook import (
    image_losses,
    of_image,
)
from kdvit_mm.models.losses import CWDLoss, FGDLoss, KDLoss
from kdvit_mm.models.losses.base import as_levels
from tests.examples import neck, pair, read_examples
from tests.resume_checks import run, run_in_halves
from tests.test_engine.test_training import assert_same, read_config
from tests.two_ranks import on_two_ranks, result

CLS = 'kcd-kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32'
DET = 'kcd-cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96'
NAMES = dict(cls=CLS, det=DET)


@HOOKS.register_module()
class KeepBatches(Hook):
    """Keeps what each epoch was trained on, and the student's logits."""

    def before_train(self, runner: Runner) -> None:
        self.epochs: list[dict[int, torch.Tensor]] = []
        self.logits: list[dict[int, torch.Tensor]] = []
        model = getattr(runner.model, 'module', runner.model)
        head = getattr(model.student, 'head', None)
        if hasattr(head, 'fc'):
            head.fc.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        if module.training:
            self.last = output.detach()

    def before_train_epoch(self, runner: Runner) -> None:
        self.epochs.append({})
        self.logits.append({})

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        for n, sample in enumerate(data_batch['data_samples']):
            index = sample.sample_idx
            assert index not in self.epochs[-1]
            self.epochs[-1][index] = data_batch['inputs'][n].clone()
            if hasattr(self, 'last'):
                self.logits[-1][index] = self.last[n]


def config(
    task: str, data: Path, work_dir: Path, epochs: int = 2, **hook: Any
) -> Config:
    """A demo on 40 crops, of which each epoch drops 3, or 16 scenes."""
    cfg = read_config(NAMES[task], data, work_dir, epochs)
    cfg.train_cfg.val_interval = 100
    cfg.visualizer.name = str(work_dir)
    cfg.custom_hooks[-1].update(dict(interval=1, num_steps=4) | hook)
    cfg.custom_hooks.append(dict(type='KeepBatches'))
    return cfg


def without_augmentation(cfg: Config) -> Config:
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='kdvit_mm.MixDropped'),
        dict(type='mmpretrain.PackInputs'),
    ]
    return cfg


def hook_of(runner: Runner, cls: type = KnowledgeCondensationHook) -> Any:
    (found,) = (hook for hook in runner.hooks if isinstance(hook, cls))
    return found


def test_kept_mixed_and_dropped(digits, tmp_path):
    """A persistent worker sees it, and the log says it."""
    cfg = without_augmentation(config('cls', digits, tmp_path / 'w', 3))
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    cfg.log_level = 'INFO'
    cfg.param_scheduler[0].end = 5
    cfg.param_scheduler[1].update(T_max=3, convert_to_iter_based=True)
    runner = run(cfg)
    dataset = runner.train_dataloader.dataset
    original = [
        torch.from_numpy(mmcv.imread(dataset.get_data_info(i)['img_path']))
        for i in range(40)
    ]
    seen = hook_of(runner, KeepBatches)
    found = hook_of(runner).condensation
    assert [len(epoch) for epoch in seen.epochs] == [40, 37, 34]
    assert runner.iter == 10 + 10 + 9

    # The first step, from the logits that the student had.
    entropy = torch.full((40,), torch.nan)
    for index, logits in seen.logits[0].items():
        p = logits.double().softmax(0)
        entropy[index] = -(p * p.log()).sum()
    ranked = entropy.argsort(descending=True).tolist()
    assert set(seen.epochs[1]) == set(ranked[:37])
    for i, (own, other) in enumerate(
        zip(ranked[34:37], ranked[37:], strict=True)
    ):
        share = 1 - 0.3 * i / 3
        mixture = share * original[own] + (1 - share) * original[other]
        got = seen.epochs[1][own].permute(1, 2, 0).float()
        assert (got - mixture).abs().max() <= 1
    for index in ranked[:34]:
        got = seen.epochs[1][index].permute(1, 2, 0)
        assert torch.equal(got, original[index])
    (kept,) = found.history[1].nonzero(as_tuple=True)
    assert set(seen.epochs[2]) == set(kept.tolist())
    assert found.counts.tolist() == [
        sum(index in epoch for epoch in seen.epochs) for index in range(40)
    ]
    pictures = [*Path(cfg.work_dir).rglob('condensation_*.png')]
    assert {file.stem for file in pictures} == {
        f'condensation_{epoch}' for epoch in (1, 2, 3)
    }
    assert all(mmcv.imread(file).std() > 1 for file in pictures)
    (file,) = Path(cfg.work_dir).glob('*/*.log')
    log = file.read_text()
    assert re.search(
        r'37 of 40 samples are kept \(92\.5%\), 3 of them with another one '
        r'mixed into it\. Mean values: [\d.]+ of those kept, [\d.]+ of the',
        log,
    )
    assert 'CosineAnnealingLR counts iterations' in log
    assert 'LinearLR counts' not in log


def test_resumed_training_equals_training_straight(digits, tmp_path):
    straight = result(run(config('cls', digits, tmp_path / 'straight')))
    halves = result(
        run_in_halves(lambda: config('cls', digits, tmp_path / 'halves'))
    )
    assert straight['iterations'] == halves['iterations']
    assert_same(straight['student'], halves['student'])
    (one,), (other,) = straight['condensations'], halves['condensations']
    for key in ('sums', 'counts', 'kept', 'partners', 'shares'):
        assert torch.equal(one[key], other[key]), key


@pytest.mark.usefixtures('forked')
def test_two_ranks_agree(digits, tmp_path):
    """And are what one process is, were it not for the order of sums."""

    def make(name: str, batch_size: int) -> Config:
        cfg = without_augmentation(config('cls', digits, tmp_path / name, 2))
        cfg.model.architecture.backbone.norm_eval = True
        cfg.train_dataloader.batch_size = batch_size
        # It is of this file, which the ranks do not import.
        cfg.custom_hooks.pop()
        cfg.optim_wrapper = dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)
        )
        cfg.param_scheduler = None
        return cfg

    alone = result(run(make('alone', 4)))
    (first,), (second,) = on_two_ranks(tmp_path, [make('two', 2)])
    assert_same(first['student'], second['student'])
    (one,), (other,), (both,) = (
        x['condensations'] for x in (first, second, alone)
    )
    for key in ('sums', 'counts', 'kept', 'partners', 'shares'):
        assert torch.equal(one[key], other[key]), key
    assert len(one['kept']) == 34
    assert first['iterations'] == alone['iterations'] == 20
    torch.testing.assert_close(one['sums'], both['sums'], rtol=1e-3, atol=1e-3)
    assert torch.equal(one['kept'], both['kept'])


def test_value_is_an_images_own_distill_loss(digits, tmp_path):
    cfg = config('det', digits, tmp_path / 'det', 1, num_steps=1)
    cfg.train_dataloader.dataset.indices = 4
    cfg.train_dataloader.batch_sampler = dict(
        type='mmdet.AspectRatioBatchSampler'
    )
    cfg.train_dataloader.batch_size = 1
    cfg.custom_hooks.append(dict(type='KeepLossesOfImages'))
    runner = run(cfg)
    condensation = hook_of(runner).condensation
    # In batches of one it is the loss itself.
    expected = hook_of(runner, KeepLossesOfImages).found
    assert len(expected) == 4 and len(condensation.kept) == 3
    for index, value in expected.items():
        found = float(condensation.sums[index])
        assert found == pytest.approx(value, rel=1e-5)


@HOOKS.register_module()
class KeepLossesOfImages(Hook):
    """Keeps the distill loss of each image, in batches of one."""

    def before_train(self, runner: Runner) -> None:
        self.found: dict[int, float] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        (sample,) = data_batch['data_samples']
        self.found[sample.sample_idx] = sum(
            float(value) for key, value in outputs.items()
            if key.startswith('distill.')
        )  # fmt: skip


@pytest.mark.parametrize(
    ('loss', 'make'),
    [(KDLoss(tau=2), lambda: pair(3, 5)), (CWDLoss(), neck)],
    ids=['logits', 'levels'],
)
def test_mean_of_the_images_is_the_loss_of_the_batch(loss, make):
    torch.manual_seed(0)
    inputs = make()
    number = len(as_levels(inputs['preds_S'])[0])
    values = image_losses(loss, inputs, number)
    assert values.shape == (number,) and not values.requires_grad
    torch.testing.assert_close(values.mean(), loss(**inputs).detach())


def test_ground_truth_goes_with_its_image():
    (example, *_) = read_examples()['FGDLoss']
    torch.manual_seed(0)
    options = {k: v for k, v in example.config.items() if k != 'type'}
    loss, inputs = FGDLoss(**options), example.inputs()
    values = image_losses(loss, inputs, 2)
    assert abs(values[0] / values[1] - 1) > 1e-4
    swapped = {
        key: value[::-1] if key == 'data_samples' else [
            x.flip(0) for x in as_levels(value)
        ]
        for key, value in inputs.items()
    }  # fmt: skip
    torch.testing.assert_close(image_losses(loss, swapped, 2), values.flip(0))


def test_of_image_takes_nested_records_and_samples_apart():
    maps = [torch.arange(6.0).view(3, 2), (torch.arange(3.0), None)]
    taken = of_image(maps, 1, 3)
    assert taken[0].tolist() == [[2, 3]]
    assert taken[1][0].tolist() == [1] and taken[1][1] is None
    assert of_image(['a', 'b', 'c'], 2, 3) == ['c']
    layer = torch.nn.Linear(2, 2)
    assert of_image(layer, 0, 3) is layer
    with pytest.raises(ValueError, match=r'\(3, 2\) for 4 images'):
        of_image(maps[0], 0, 4)
    with pytest.raises(ValueError, match='3 samples for 4 images'):
        of_image(['a', 'b', 'c'], 0, 4)


@DATA_SAMPLERS.register_module()
class Stubborn(BatchSampler):
    """Reads the sampler once, at its start."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        super().__init__([*sampler], batch_size, drop_last=False)
        self.source, self.fixed = sampler, self.sampler
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        return iter(BatchSampler(self.fixed, self.batch_size, False))


PLAIN_SAMPLER = {'train_dataloader.sampler.type': 'DefaultSampler'}
REFUSED = [
    (PLAIN_SAMPLER, TypeError, 'cannot steer a DefaultSampler. Set'),
    (
        {'train_dataloader.batch_sampler': dict(type='Stubborn')},
        TypeError,
        'cannot steer a Stubborn',
    ),
    (
        {'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop',
                           max_iters=3)},
        TypeError,
        'train_cfg.type is IterBasedTrainLoop',
    ),
    (
        {'hook.losses': ['loss_dkd']},
        ValueError,
        'no distill loss "loss_dkd". distiller.distill_losses has loss_kd',
    ),
    (
        {'model.distiller.distill_losses.loss_kd': dict(
            _delete_=True, type='kdvit_mm.RKDLoss'), 'hook.value': 'loss'},
        ValueError,
        r'RKDLoss \("loss_kd"\) cannot be computed for an image alone',
    ),
    (
        {'train_dataloader.dataset.pipeline': [
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.PackInputs', meta_keys=('img_path',))]},
        ValueError,
        'no sample_idx',
    ),
    ({'hook.num_steps': 13}, ValueError, 'less than one of 40 samples'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'error', 'message'), REFUSED)
def test_what_cannot_be_condensed_is_refused(
    changes, error, message, digits, tmp_path
):
    cfg = config('cls', digits, tmp_path / 'refused', 1)
    hook = cfg.custom_hooks[-2]
    for key, value in changes.items():
        if key.startswith('hook.'):
            hook[key.removeprefix('hook.')] = value
        else:
            cfg.merge_from_dict({key: value})
    with pytest.raises(error, match=message):
        run(cfg)


def test_joined_data_sets_and_plain_models_are_refused(digits, tmp_path):
    cfg = config('cls', digits, tmp_path / 'joined', 1)
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dataset, dataset]
    )
    with pytest.raises(TypeError, match='a ConcatDataset repeats or'):
        run(cfg)
    plain = read_config(
        'resnet18-w0.0625_10e_digits-32', digits, tmp_path / 'plain', 1
    )
    plain.custom_hooks.append(dict(type='kdvit_mm.KnowledgeCondensationHook'))
    with pytest.raises(TypeError, match='but got ImageClassifier'):
        run(plain)


def test_an_entropy_is_of_class_scores_of_one_loss(digits, tmp_path):
    cfg = config('det', digits, tmp_path / 'maps', 1, value='entropy')
    with pytest.raises(ValueError, match='not class scores of 4 images'):
        run(cfg)
    cfg = config('cls', digits, tmp_path / 'two', 1)
    distiller = cfg.model.distiller
    for part in (distiller.distill_losses, distiller.loss_forward_mappings):
        part.loss_more = copy.deepcopy(part.loss_kd)
    with pytest.raises(ValueError, match=r'Set losses=\["loss_kd"\]'):
        run(cfg)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(value='kd'), 'value "kd" is not one of entropy, loss'),
        (dict(interval=0), 'interval=0'),
        (dict(keep_ratio=1.0), 'keep_ratio=1.0'),
        (dict(min_share=0), 'min_share=0'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeCondensationHook(**options)


def test_a_model_is_still_tested_and_validated(digits, tmp_path):
    cfg = config('cls', digits, tmp_path / 'test', 1)
    runner = Runner.from_cfg(cfg)
    assert 'accuracy/top1' in runner.test()
