"""The packages' inference, of a distillation and of its student."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain import ImageClassificationInferencer, get_model
from mmseg.apis import MMSegInferencer, inference_model
from mmseg.apis import init_model as init_segmentor

from kdvit_mm.registry import MODELS

pytestmark = pytest.mark.usefixtures('forked')
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / 'configs' / 'demo'
DISTILLED = {
    'det': 'cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96',
    'seg': 'cwd_logits_pspnet_r18-w0.5_fcn_r18-w0.125_1k_digits-128',
    'cls': 'kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32',
}
PLAIN = {
    'det': 'gfl_r18-w0.125_fpn_4e_digits-96',
    'seg': 'fcn_r18-w0.125-d8_1k_digits-128',
    'cls': 'resnet18-w0.0625_10e_digits-32',
}


def run_tool(name: str, *arguments: object) -> None:
    """Runs a tool with the time in its runner's name to itself."""
    command = [sys.executable, ROOT / 'tools' / name, *arguments]
    subprocess.run([*map(str, command)], check=True)


class Case:
    """A task's distillation config, its checkpoint and the student's."""

    def __init__(self, task: str, digits: Path, folder: Path) -> None:
        cfg = Config.fromfile(DEMO / f'{DISTILLED[task]}.py')
        cfg.model.teacher_ckpt = None
        root = f'{digits}/'
        for part in ('train', 'val', 'test'):
            cfg[f'{part}_dataloader'].dataset.data_root = root
            cfg[f'{part}_dataloader'].num_workers = 0
            if task == 'det':
                annotations = f'{root}annotations/val.json'
                cfg[f'{part}_evaluator'] = dict(
                    cfg.val_evaluator, ann_file=annotations
                )
        cfg.pop('train_evaluator', None)
        self.config = folder / 'distillation.py'
        cfg.dump(self.config)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        model.init_weights()
        if task == 'det':  # scores above the threshold
            torch.nn.init.zeros_(model.student.bbox_head.gfl_cls.bias)
        classes = tuple('0123456789')
        if task == 'seg':
            classes = ('background', *classes)
        palette = [[i, 2 * i, 3 * i] for i in range(len(classes))]
        self.checkpoint = folder / 'epoch_1.pth'
        torch.save(
            dict(
                state_dict=model.state_dict(),
                meta=dict(
                    cfg=cfg.pretty_text,
                    dataset_meta=dict(classes=classes, palette=palette),
                ),
            ),
            self.checkpoint,
        )
        self.exported = folder / 'student.pth'
        run_tool('model_converters/export_student.py',
                 self.checkpoint, self.exported)  # fmt: skip
        self.student = str(folder / 'student.py')
        text = torch.load(self.exported, weights_only=True)['meta']['cfg']
        Path(self.student).write_text(text)
        self.folder = folder
        kind = 'cls' if task == 'cls' else 'images'
        files = sorted((digits / kind / 'val').rglob('*.*'))
        self.image = str(files[0])

    def runs(self) -> dict[str, tuple[str, str]]:
        """Config and checkpoint by what they are."""
        return {
            'distillation': (str(self.config), str(self.checkpoint)),
            'exported': (self.student, str(self.exported)),
            'distillation, exported': (str(self.config), str(self.exported)),
            'plain, distilled': (self.student, str(self.checkpoint)),
        }

    def test(self, config: str, checkpoint: str, *options: str) -> list[dict]:
        """Predictions that tools/test.py writes."""
        out = self.folder / 'predictions.pkl'
        run_tool('test.py', config, checkpoint, '--work-dir',
                 self.folder / 'test', '--out', out, *options)  # fmt: skip
        return pickle.loads(out.read_bytes())


@pytest.fixture(scope='module')
def det(digits, tmp_path_factory) -> Case:
    return Case('det', digits, tmp_path_factory.mktemp('det'))


@pytest.fixture(scope='module')
def seg(digits, tmp_path_factory) -> Case:
    return Case('seg', digits, tmp_path_factory.mktemp('seg'))


@pytest.fixture(scope='module')
def cls(digits, tmp_path_factory) -> Case:
    return Case('cls', digits, tmp_path_factory.mktemp('cls'))


def all_equal(results: dict[str, np.ndarray]) -> bool:
    first, *others = results.values()
    assert first.size and np.isfinite(first).all()
    return all(np.array_equal(first, other) for other in others)


def test_exported_config_is_the_students_own(det, seg, cls):
    for case, plain in zip((det, seg, cls), PLAIN.values(), strict=True):
        cfg = Config.fromfile(case.student)
        own = Config.fromfile(DEMO / f'{plain}.py')
        assert (
            cfg.model.data_preprocessor.mean
            == (
                own.model.get('data_preprocessor') or own.data_preprocessor
            ).mean
        )
        assert cfg.default_scope == own.default_scope
        assert cfg.visualizer.type == own.visualizer.type.rpartition('.')[2]
        assert 'distiller' not in cfg and not cfg.custom_hooks
        init_default_scope(own.default_scope)
        model = MODELS.build(cfg.model)
        state = torch.load(case.exported, weights_only=True)['state_dict']
        model.load_state_dict(state, strict=True)


def test_init_detector(det):
    results = {}
    for name, run in det.runs().items():
        model = init_detector(*run, device='cpu')
        assert type(model).__name__ == 'GFL'
        assert len(model.dataset_meta['classes']) == 10
        found = inference_detector(model, det.image).pred_instances
        results[name] = torch.column_stack(
            [found.bboxes, found.scores, found.labels]
        ).numpy()
    assert all_equal(results)


def test_options_are_those_of_the_named_config(det):
    options = {'model.architecture.test_cfg.max_per_img': 3}
    cfg = Config.fromfile(det.config)
    model = init_detector(cfg, None, device='cpu', cfg_options=options)
    assert model.test_cfg.max_per_img == 3
    assert 'distiller' in cfg.model, "the user's config is left as it is"


def test_det_inferencer(det):
    results = {}
    runs = det.runs() | {
        'exported alone': (None, str(det.exported)),
        'distillation alone': (None, str(det.checkpoint)),
    }
    for name, (model, weights) in runs.items():
        inferencer = DetInferencer(
            model, weights, device='cpu', show_progress=False
        )
        (found,) = inferencer(det.image, no_save_vis=True)['predictions']
        results[name] = np.column_stack([found['scores'], found['bboxes']])
    assert all_equal(results)


def test_segmentors(seg):
    results = {}
    for name, (config, weights) in seg.runs().items():
        model = init_segmentor(config, weights, device='cpu')
        assert len(model.dataset_meta['classes']) == 11
        if config == str(seg.config):
            found = MMSegInferencer(config, weights, device='cpu')(seg.image)
            results[f'{name}, inferencer'] = found['predictions']
        found = inference_model(model, seg.image)
        results[name] = found.pred_sem_seg.data.numpy()[0]
    for weights in (seg.exported, seg.checkpoint):
        found = MMSegInferencer(None, str(weights), device='cpu')(seg.image)
        results[f'{weights} alone'] = found['predictions']
    assert all_equal(results)


def test_classifiers(cls):
    init_default_scope('mmpretrain')
    results = {}
    for name, (config, weights) in cls.runs().items():
        found = ImageClassificationInferencer(config, weights, device='cpu')
        assert type(found.model).__name__ == 'ImageClassifier'
        results[name] = found(cls.image)[0]['pred_scores']
        model = get_model(config, weights, device='cpu')
        model._metainfo = None
        results[f'{name}, get_model'] = ImageClassificationInferencer(model)(
            cls.image
        )[0]['pred_scores']
    assert all_equal(results)


def numbers(predictions: list[dict]) -> list[np.ndarray]:
    """All that was predicted, image by image."""
    return [
        np.concatenate([np.ravel(value) for value in found.values()])
        for sample in predictions
        for found in [
            sample.get('pred_instances')
            or sample.get('pred_sem_seg')
            or dict(score=sample['pred_score'])
        ]
    ]


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_test_time_augmentation(task, request):
    case = request.getfixturevalue(task)
    distilled, exported, *_ = case.runs().values()
    augmented = case.test(*distilled, '--tta')
    by_student = case.test(*exported, '--tta')
    for one, other in zip(*map(numbers, (augmented, by_student)), strict=True):
        assert one.size and np.array_equal(one, other)
    if task == 'seg':
        plain = case.test(*exported)
        for one, other in zip(augmented, plain, strict=True):
            truth = [sample['gt_sem_seg']['data'] for sample in (one, other)]
            assert torch.equal(*truth), 'not mirrored'
        pairs = zip(numbers(augmented), numbers(plain), strict=True)
        assert not all(np.array_equal(*pair) for pair in pairs)


def test_flips_are_averaged(cls):
    """Against the mean of two predictions, made by hand."""
    init_default_scope('mmpretrain')
    prediction = cls.test(*cls.runs()['distillation'], '--tta')[0]
    inferencer = ImageClassificationInferencer(cls.student, str(cls.exported))
    image = mmcv.imread(prediction['img_path'])
    scores = [
        inferencer(picture)[0]['pred_scores']
        for picture in (image, mmcv.imflip(image))
    ]
    assert not np.array_equal(*scores)
    expected = torch.as_tensor(np.mean(scores, axis=0))
    assert torch.allclose(prediction['pred_score'], expected, atol=1e-6)


def test_tta_of_the_config(det):
    """tta_model and tta_pipeline take precedence over flipping."""
    cfg = Config.fromfile(det.config)
    nms = dict(type='nms', iou_threshold=0.5)
    cfg.tta_model = dict(
        type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=1)
    )
    load, *steps = copy.deepcopy(cfg.test_dataloader.dataset.pipeline)
    steps[-1].meta_keys += ('flip', 'flip_direction')
    flip = dict(type='RandomFlip', prob=1.0)
    cfg.tta_pipeline = [
        load,
        dict(type='TestTimeAug', transforms=[[s] for s in (flip, *steps)]),
    ]
    config = det.folder / 'tta.py'
    cfg.dump(config)
    for prediction in det.test(str(config), str(det.checkpoint), '--tta'):
        assert len(prediction['pred_instances']['scores']) == 1
