"""Every hook of the four packages does to the student what it does alone."""

import copy
import re
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path

import mmdet.models
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from mmrazor.models.algorithms import SingleTeacherDistill
from torch.testing._internal.distributed.fake_pg import FakeStore

from kdvit_mm.datasets.digit_scenes import CLASSES
from kdvit_mm.engine.student_view import (
    REFUSED,
    STUDENT_HOOKS,
    distillation_of,
    student_view,
)
from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.registry import MODELS
from tests import tiny

DOCS = Path(__file__).resolve().parents[2] / 'docs'
PACKAGES = 'mmengine', 'mmdet', 'mmseg', 'mmpretrain'


def table() -> dict[str, str]:
    """What each hook sees, as docs/hooks_and_optimisers.md has it."""
    text = (DOCS / 'hooks_and_optimisers.md').read_text()
    rows = re.findall(
        r'^\| `(\w+\.\w+)` \| (student|algorithm|nothing|refused) \|',
        text,
        re.MULTILINE,
    )
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_table_has_every_hook_of_the_four_packages():
    found = set()
    for package in PACKAGES:
        root = Path(find_spec(package).origin).parent
        for file in root.rglob('*.py'):
            if '.mim' not in file.parts:
                found |= {
                    f'{package}.{name}'
                    for name in re.findall(
                        r'^class (\w+)\([\w., ]*Hook\b',
                        file.read_text(encoding='utf-8'),
                        re.MULTILINE,
                    )
                }
    assert set(table()) == found


def test_table_is_what_the_code_does():
    rows = table()
    student = {name for name, sees in rows.items() if sees == 'student'}
    refused = {name for name, sees in rows.items() if sees == 'refused'}
    assert student == STUDENT_HOOKS
    loops = {name for name in REFUSED if name.endswith('Loop')}
    assert refused | loops == set(REFUSED)
    text = (DOCS / 'hooks_and_optimisers.md').read_text()
    assert all(f'`{name}`' in text for name in loops)
    assert set(HOOK_CASES) == student


# Students for the hooks, as small as they come.


class GFLOfEpochs(mmdet.models.GFL):
    """A detector that follows the epoch, as some users' do."""

    def set_epoch(self, epoch: int) -> None:
        self.seen_epoch = epoch


def gfl() -> torch.nn.Module:
    return MODELS.build(tiny.gfl())


def epochs() -> torch.nn.Module:
    return MODELS.build(tiny.gfl() | dict(type=GFLOfEpochs))


def yolox() -> torch.nn.Module:
    return MODELS.build(tiny.yolox(len(CLASSES)))


def classifier(**head) -> torch.nn.Module:
    cfg = tiny.resnet()
    cfg.head.update(head)
    return MODELS.build(cfg)


def arc_face() -> torch.nn.Module:
    return classifier(type='ArcFaceClsHead')


def wrong_classes() -> torch.nn.Module:
    return classifier(num_classes=7)


def dense_cl() -> torch.nn.Module:
    return MODELS.build(
        ConfigDict(
            _scope_='mmpretrain',
            type='DenseCL',
            queue_len=8,
            feat_dim=4,
            backbone=tiny.resnet().backbone,
            neck=dict(
                type='DenseCLNeck',
                in_channels=32,
                hid_channels=4,
                out_channels=4,
            ),
            head=dict(
                type='ContrastiveHead',
                loss=dict(type='CrossEntropyLoss'),
            ),
        )
    )


def swav() -> torch.nn.Module:
    return MODELS.build(
        ConfigDict(
            _scope_='mmpretrain',
            type='SwAV',
            backbone=tiny.resnet().backbone,
            neck=dict(
                type='SwAVNeck',
                in_channels=32,
                hid_channels=4,
                out_channels=4,
                norm_cfg=dict(type='BN1d'),
            ),
            head=dict(
                type='SwAVHead',
                loss=dict(type='SwAVLoss', feat_dim=4, num_prototypes=3),
            ),
        )
    )


def retriever() -> torch.nn.Module:
    cfg = tiny.resnet()
    return MODELS.build(
        ConfigDict(
            _scope_='mmpretrain',
            type='ImageToImageRetriever',
            image_encoder=[cfg.backbone, cfg.neck],
            prototype=torch.arange(12.0).view(3, 4),
            head=cfg.head,
        )
    )


def distil(
    student: torch.nn.Module,
    teacher: torch.nn.Module | None = None,
    kind: type = LeanTeacherDistill,
) -> torch.nn.Module:
    return kind(
        architecture=copy.deepcopy(student),
        teacher=copy.deepcopy(student) if teacher is None else teacher,
        distiller=ConfigDict(type='mmrazor.ConfigurableDistiller'),
    )


def loader(data: Path, task: str, part: str = 'train') -> dict:
    if task == 'det':
        dataset = dict(
            type='kdvit_mm.DigitDetection',
            data_root=f'{data}/',
            ann_file=f'annotations/{part}.json',
            data_prefix=dict(img=f'images/{part}/'),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmdet.LoadAnnotations', with_bbox=True),
                dict(type='mmdet.PackDetInputs'),
            ],
        )
    else:
        dataset = dict(
            type='kdvit_mm.DigitClassification',
            data_root=f'{data}/',
            data_prefix=f'cls/{part}',
            # The last class has fewer images than the others.
            indices=38 if part == 'train' else None,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmpretrain.PackInputs'),
            ],
        )
    if task == 'det' and part == 'train':
        inner, dataset = dataset, dict(type='mmdet.MultiImageMixDataset')
        dataset['pipeline'] = inner['pipeline'][2:]
        dataset['dataset'] = inner | dict(pipeline=inner['pipeline'][:2])
    return dict(
        batch_size=8,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset,
    )


class QuickRunner(Runner):
    """Leaves out the list of the machine's software, which takes a second."""

    def _log_env(self, env_cfg) -> None:
        pass


def make_runner(
    model: torch.nn.Module, data: Path, out: Path, task: str, *hooks, **changes
) -> Runner:
    DefaultScope._instance_dict.clear()
    settings = dict(
        train_cfg=dict(by_epoch=True, max_epochs=2),
        train_dataloader=loader(data, task),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        experiment_name=f'{out.name}{make_runner.count}',
    )
    make_runner.count += 1
    return QuickRunner(
        model=model,
        work_dir=str(out / str(make_runner.count)),
        default_scope='mmpretrain' if task == 'cls' else 'mmdet',
        log_level='ERROR',
        default_hooks=dict(logger=None, checkpoint=None, timer=None),
        custom_hooks=copy.deepcopy(list(hooks)),
        randomness=dict(seed=0),
        **(settings | changes),
    )


make_runner.count = 0


def _use_l1(student, runner):
    skipped = runner.train_dataloader.dataset._skip_type_keys
    return student.bbox_head.use_l1, skipped


def _norms(student, runner):
    return [
        student.backbone.layer1[0].bn1.running_var,
        student.backbone.bn1.num_batches_tracked,
    ]


def _recipe(student, runner):
    # The algorithm's, through which the batches go.
    augments = runner.model.data_preprocessor.batch_augments
    return (
        type(student.head.loss_module).__name__,
        [type(a).__name__ for a in augments.augments],
        len(runner.train_dataloader.dataset.pipeline.transforms),
    )


RECIPE = dict(
    type='mmpretrain.SwitchRecipeHook',
    schedule=[
        dict(
            action_epoch=1,
            batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)),
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
            train_pipeline=[dict(type='LoadImageFromFile')],
        )
    ],
)
ITERATION = dict(batch_idx=0)
# Hook: student, other keys, what is called, what of the student it changes.
HOOK_CASES = {
    'mmdet.YOLOXModeSwitchHook': (
        yolox,
        dict(num_last_epochs=2),
        {'before_train_epoch': {}},
        _use_l1,
    ),
    'mmdet.SetEpochInfoHook': (
        epochs,
        {},
        {'before_train_epoch': {}},
        lambda student, _: student.seen_epoch,
    ),
    'mmdet.SyncNormHook': (gfl, {}, {'before_val_epoch': {}}, _norms),
    # Both pass, though the teacher has other classes.
    'mmdet.NumClassCheckHook': (
        gfl,
        {},
        {'before_train_epoch': {}},
        lambda student, _: student.bbox_head.num_classes,
    ),
    'mmpretrain.ClassNumCheckHook': (
        classifier,
        {},
        {'before_train': {}},
        lambda student, _: student.head.num_classes,
    ),
    'mmpretrain.DenseCLHook': (
        dense_cl,
        dict(start_iters=5),
        {'before_train': {}, 'before_train_iter': ITERATION},
        lambda student, _: student.loss_lambda,
    ),
    'mmpretrain.SwAVHook': (
        swav,
        dict(
            batch_size=1,
            epoch_queue_starts=0,
            feat_dim=4,
            queue_length=3,
            frozen_layers_cfg=dict(prototypes=5),
        ),
        {
            'before_run': {},
            'before_train_epoch': {},
            'before_train_iter': ITERATION,
            'after_train_epoch': {},
        },
        lambda student, _: (
            student.head.loss_module.queue,
            student.head.loss_module.prototypes.weight.requires_grad,
        ),
    ),
    'mmpretrain.PreciseBNHook': (
        classifier,
        dict(num_samples=24),
        {'after_train_epoch': {}},
        lambda student, _: list(student.buffers()),
    ),
    'mmpretrain.PrepareProtoBeforeValLoopHook': (
        retriever,
        {},
        {'before_val': {}},
        lambda student, _: student.prototype_vecs,
    ),
    'mmpretrain.SetAdaptiveMarginsHook': (
        arc_face,
        {},
        {'before_train': {}},
        lambda student, _: student.head.margins,
    ),
    'mmpretrain.SwitchRecipeHook': (
        classifier,
        RECIPE,
        {'before_train_epoch': {}},
        _recipe,
    ),
    'mmpretrain.WarmupParamHook': (
        arc_face,
        dict(param_name='scale', module_name='head', warmup_epochs=1),
        {'before_train': {}, 'before_train_iter': ITERATION},
        lambda student, _: student.head.scale,
    ),
}


def flat(value) -> list:
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in flat(part)]
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    return [value]


@contextmanager
def silent_rank():
    """A process group of two whose other member adds nothing."""
    torch.distributed.init_process_group(
        'fake', store=FakeStore(), rank=0, world_size=2
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('name', HOOK_CASES)
def test_hook_changes_the_student_as_alone(name, digits, tmp_path):
    make, keys, calls, effect = HOOK_CASES[name]
    task = 'det' if name.startswith('mmdet') else 'cls'
    torch.manual_seed(0)
    student = make()
    before = copy.deepcopy(student)
    found = []
    teacher = None
    if 'Class' in name:
        teacher = copy.deepcopy(student)
        (teacher.bbox_head if task == 'det' else teacher.head).num_classes = 80
    for model in (
        copy.deepcopy(student),
        distil(student, teacher),
        distil(student, teacher, SingleTeacherDistill),
    ):
        runner = make_runner(
            model, digits, tmp_path, task, dict(keys, type=name)
        )
        assert runner.train_loop.max_epochs == 2
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        model.train()
        with silent_rank() if 'Sync' in name else nullcontext():
            for point, arguments in calls.items():
                runner.call_hook(point, **arguments)
        assert runner.model is model
        found.append(flat(effect(getattr(model, 'student', model), runner)))
    assert found[0] == found[1] == found[2]
    if 'Class' not in name:
        # The hook did change something.
        runner = make_runner(before, digits, tmp_path, task)
        with suppress(AttributeError):
            assert flat(effect(before, runner)) != found[0]


@pytest.mark.parametrize(
    ('name', 'point', 'make'),
    [
        ('mmdet.NumClassCheckHook', 'before_train_epoch', gfl),
        ('mmpretrain.ClassNumCheckHook', 'before_train', classifier),
    ],
)
def test_classes_of_the_student_are_checked(
    name, point, make, digits, tmp_path
):
    student = make()
    head = student.bbox_head if make is gfl else student.head
    head.num_classes = 7
    messages = []
    task = 'det' if make is gfl else 'cls'
    for model in student, distil(student):
        runner = make_runner(model, digits, tmp_path, task, dict(type=name))
        assert runner.train_dataloader
        with pytest.raises(AssertionError) as error:
            runner.call_hook(point)
        assert runner.model is model
        messages.append(str(error.value))
    assert messages[0] == messages[1] and '(7)' in messages[0]


@pytest.mark.parametrize(
    ('task', 'make', 'hooks'),
    [
        (
            'det',
            yolox,
            [
                dict(type='mmdet.YOLOXModeSwitchHook', num_last_epochs=1),
                dict(type='mmdet.NumClassCheckHook'),
                dict(type='mmdet.SyncNormHook'),
            ],
        ),
        (
            'cls',
            classifier,
            [
                dict(type='mmpretrain.PreciseBNHook', num_samples=16),
                dict(type='mmpretrain.ClassNumCheckHook'),
                dict(
                    RECIPE,
                    schedule=[
                        dict(
                            action_epoch=2,
                            batch_augments=dict(
                                augments=dict(type='Mixup', alpha=0.8)
                            ),
                            loss=dict(
                                type='LabelSmoothLoss', label_smooth_val=0.1
                            ),
                        )
                    ],
                ),
            ],
        ),
    ],
)
def test_training_with_hooks_equals_the_student_alone(
    task, make, hooks, digits, tmp_path
):
    """Whole trainings without distill losses, bit for bit."""
    torch.manual_seed(0)
    student = make()
    student.init_weights = lambda: None
    weights = []
    for model in copy.deepcopy(student), distil(student):
        runner = make_runner(model, digits, tmp_path, task, *hooks)
        runner.train()
        weights.append(getattr(model, 'student', model).state_dict())
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    start = student.state_dict()
    assert any(not torch.equal(start[k], v) for k, v in weights[0].items())


def test_recipe_reaches_a_preprocessor_of_the_algorithms_own(digits, tmp_path):
    model = distil(classifier())
    own = model.student.data_preprocessor
    model.data_preprocessor = copy.deepcopy(own)
    used = model.data_preprocessor
    runner = make_runner(model, digits, tmp_path, 'cls', RECIPE)
    runner.call_hook('before_train_epoch')
    assert model.data_preprocessor is used
    assert model.student.data_preprocessor is own
    assert used.batch_augments is not None and own.batch_augments is None


@HOOKS.register_module()
class ReplacePreprocessor(HOOKS.get('mmpretrain.SwitchRecipeHook')):
    """A user's hook derived from a known one."""

    def before_train(self, runner) -> None:
        runner.model.data_preprocessor = torch.nn.Identity()
        self.seen = type(runner.model).__name__
        raise RuntimeError('something of its own')


def test_subclass_sees_the_student_and_all_is_restored(digits, tmp_path):
    model = distil(classifier())
    hook = dict(type='ReplacePreprocessor', schedule=[])
    runner = make_runner(model, digits, tmp_path, 'cls', hook)
    with pytest.raises(RuntimeError, match='of its own'):
        runner.call_hook('before_train')
    seen = [h.seen for h in runner.hooks if hasattr(h, 'seen')]
    assert seen == ['ImageClassifier'] and runner.model is model
    assert isinstance(model.data_preprocessor, torch.nn.Identity)
    assert model.student.data_preprocessor is model.data_preprocessor


@HOOKS.register_module()
class ReadsTheHead(Hook):
    """A user's hook that knows nothing of distillation."""

    def before_train(self, runner) -> None:
        runner.model.head.fc.requires_grad_(False)

    def after_train(self, runner) -> None:
        runner.model.no_such_part  # noqa: B018


def test_unknown_hook_is_told_where_the_student_is(digits, tmp_path):
    hook = dict(type='ReadsTheHead')
    runner = make_runner(distil(classifier()), digits, tmp_path, 'cls', hook)
    with pytest.raises(AttributeError, match=r'runner\.model\.student') as e:
        runner.call_hook('before_train')
    assert 'ReadsTheHead looks for "head"' in str(e.value)
    with pytest.raises(AttributeError, match='no_such_part') as e:
        runner.call_hook('after_train')
    assert 'runner.model.student' not in str(e.value)


def test_wrapped_algorithm_is_found_and_comes_back(digits, tmp_path):
    """Under DistributedDataParallel and test-time augmentation."""
    from mmdet.models import DetTTAModel
    from mmengine.model import MMDistributedDataParallel

    model = distil(gfl())
    runner = make_runner(model, digits, tmp_path, 'det')
    with silent_rank():
        runner.model = wrapped = MMDistributedDataParallel(model)
        assert distillation_of(wrapped) is model
        with student_view(runner, model.student):
            assert runner.model is model.student
        assert runner.model is wrapped
    assert distillation_of(DetTTAModel(module=model)) is model
    assert distillation_of(model.student) is None


@pytest.mark.parametrize('kind', [LeanTeacherDistill, SingleTeacherDistill])
def test_mean_teacher_is_refused_before_training(kind, digits, tmp_path):
    runner = make_runner(
        distil(gfl(), kind=kind),
        digits,
        tmp_path,
        'det',
        dict(type='mmdet.MeanTeacherHook'),
    )
    with pytest.raises(ValueError, match=r'MeanTeacherHook .*Remove it from'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    'loop', [name for name in REFUSED if name.endswith('ValLoop')]
)
def test_loops_that_ask_for_other_models_are_refused(loop, digits, tmp_path):
    task = 'det' if loop.startswith('mmdet') else 'cls'
    runner = make_runner(
        distil(gfl() if task == 'det' else classifier()),
        digits,
        tmp_path,
        task,
        val_cfg=dict(type=loop),
        val_dataloader=loader(digits, task, 'val'),
        val_evaluator=[],
    )
    with pytest.raises(ValueError, match=rf'{loop.split(".")[1]} cannot'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('hook', 'key'),
    [
        ('kdvit_mm.DistillationLossDetachHook', 'detach_epoch'),
        ('mmrazor.StopDistillHook', 'stop_epoch'),
    ],
)
def test_stopping_the_only_loss_is_refused(hook, key, digits, tmp_path):
    model = distil(classifier())
    model.calculate_student_loss = False
    runner = make_runner(
        model, digits, tmp_path, 'cls', {'type': hook, key: 1}
    )
    with pytest.raises(ValueError, match=rf'{key}=1.*calculate_student_loss'):
        runner.train()
    assert runner.iter == 0
    # Beyond the end of training it does nothing.
    runner = make_runner(
        model, digits, tmp_path, 'cls', {'type': hook, key: 2}
    )
    runner.train_loop  # noqa: B018
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    assert not model.distillation_stopped


def test_modules_named_for_the_runner_are_the_students(digits, tmp_path):
    """``activation_checkpointing`` and ``efficient_conv_bn_eval``."""
    from mmengine.runner import runner as module

    model = distil(classifier())
    plain = model.student.backbone.forward
    module.turn_on_activation_checkpointing(model, ['backbone'])
    assert model.student.backbone.forward is not plain
    plain = model.student.backbone.layer1.forward
    module.turn_on_efficient_conv_bn_eval(model, 'backbone.layer1')
    assert model.student.backbone.layer1.forward is not plain
    with pytest.raises(ValueError, match='write "backbone"'):
        module.turn_on_activation_checkpointing(model, 'architecture.backbone')
