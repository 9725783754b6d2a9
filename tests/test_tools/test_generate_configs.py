"""The configs that join distillers and pairs of classifiers."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS as RAZOR_MODELS

from kdvit_mm.engine.hooks.distill_schedule_hook import POLICIES
from kdvit_mm.engine.recipe import read_recipe
from tests.loss_checks import classification_batch
from tests.test_tools.test_scripts import ROOT, load

tool = load('misc/generate_configs.py')
CONFIGS = ROOT / 'configs'
#: On all of which the changes of the methods can be made at once.
AT_ONCE = [
    method
    for method in {m.base: m for m in tool.METHODS}.values()
    if method.folder not in ('mlld', 'sskd', 'annealing')
    and 'mlld' not in method.base
]


def parsed(folder: str, name: str) -> Config:
    return Config.fromfile(
        CONFIGS / 'distill/mmpretrain' / folder / f'{name}.py'
    )


def small_model(name: str):
    data = 'cifar_small' if 'w0' in name else 'cifar100'
    cfg = Config.fromfile(CONFIGS / '_base_/models' / f'{name}_{data}.py')
    return cfg.model


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(copy.deepcopy(cfg))


def test_files_are_fresh():
    """Else run ``python tools/misc/generate_configs.py``."""
    documents = tool.documents()
    stale = [
        file
        for file, text in documents.items()
        if not file.is_file() or file.read_text() != text
    ]
    assert stale == []
    marked = {
        file
        for folder in ('demo', 'distill/mmpretrain', 'real')
        for file in (CONFIGS / folder).rglob('*.py')
        if file.read_text().startswith(f'# Written by {tool.TOOL}')
    }
    assert marked == {f for f in documents if f.suffix == '.py'}
    assert len(marked) > 200


def test_every_pair_has_every_method_that_it_can_have():
    expected = {
        'kd', 'dkd', 'nkd', 'wsld', 'normkd', 'dtkd', 'mlld', 'lskd', 'sdd',
        'sdd_lskd', 'catkd', 'annealing', 'dist', 'fitnets', 'at', 'ofd',
        'dspp', 'reviewkd', 'sp', 'rkd', 'crd', 'sskd',
    }  # fmt: skip
    for pair in tool.CIFAR_PAIRS:
        found = {m.folder for m in tool.METHODS if pair in m.pairs}
        assert found - {'fsp'} == expected
    demos = {m.folder for m in tool.METHODS if m.demo}
    assert demos == expected | {'fsp'}


@pytest.mark.parametrize(
    'name',
    # Steps with the others are in test_configs_full.py.
    [n for n, net in tool.NETWORKS.items() if net.stages[0].size < 56],
)
def test_networks_are_as_the_tool_has_them(name):
    network = tool.NETWORKS[name]
    model = build(small_model(name)).eval()
    sources = {
        **{
            f'map{i}': dict(
                type='ModuleOutputs', source=f'backbone.layer{i + 1}'
            )
            for i in range(len(network.stages))
        },
        'before': dict(
            type='kdvit_mm.ModuleTuple',
            parts=[stage.before_relu for stage in network.stages],
        ),
        'pooled': dict(type='ModuleOutputs', source='neck.gap'),
    }
    with DefaultScope.overwrite_default_scope('mmrazor'):
        recorders = RecorderManager(sources)
    recorders.initialize(model)
    with recorders, torch.no_grad():
        model(torch.rand(2, 3, 32, 32))

    def record(key):
        return recorders.get_recorder(key).get_record_data()

    modules = dict(model.named_modules())
    for i, stage in enumerate(network.stages):
        maps, before = record(f'map{i}'), record('before')[i]
        assert maps.shape[1:] == (stage.channels, stage.size, stage.size)
        assert before.shape == maps.shape
        if stage.norm:
            norms = [
                module
                for module in modules[stage.norm].modules()
                if isinstance(module, torch.nn.BatchNorm2d)
            ]
            assert [n.num_features for n in norms] == [stage.channels]
    assert record('pooled').shape[1] == network.pooled


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('resnet32x4', 28),
        ('shufflenet-v1', 14),
        ('mobilenet-v2', 7),
        ('vgg13', 28),
    ],
)
def test_large_images(name, size):
    model = build(
        Config.fromfile(CONFIGS / f'_base_/models/{name}_cub200.py').model
    ).eval()
    # A quarter of the usual size, so that it is quick.
    with torch.no_grad():
        (maps,) = model.extract_feat(torch.rand(2, 3, 56, 56), 'backbone')
        logits = model(torch.rand(2, 3, 56, 56))
    assert maps.shape[2:] == (-(-size // 4),) * 2
    assert logits.shape == (2, 200)


def changed_distiller(method, pair) -> dict:
    """A method's distiller as the config of a pair has it."""
    base = copy.deepcopy(tool.read_base(method.base))
    exec(
        tool.text_of(tool.assignments(base, method.changes(pair))),
        {'distiller': base.distiller},
    )
    return base.distiller.to_dict()


def join(distillers: dict[str, dict]) -> dict:
    """One distiller of several, whose names get a prefix."""
    joined = dict(type='ConfigurableDistiller')
    for name, distiller in distillers.items():
        for part in ('student_recorders', 'teacher_recorders', 'connectors',
                     'distill_losses'):  # fmt: skip
            entries = joined.setdefault(part, {})
            for key, value in distiller.get(part, {}).items():
                entries[f'{name}_{key}'] = value
        mappings = joined.setdefault('loss_forward_mappings', {})
        for key, mapping in distiller['loss_forward_mappings'].items():
            for record in mapping.values():
                for link in ('recorder', 'connector'):
                    if link in record:
                        record[link] = f'{name}_{record[link]}'
            mappings[f'{name}_{key}'] = mapping
    return joined


@pytest.mark.parametrize('pair', tool.CIFAR_PAIRS, ids=str)
def test_all_methods_of_a_pair_take_a_step(pair):
    distillers = {
        method.base.replace('-', '_'): changed_distiller(method, pair)
        for method in AT_ONCE
        if pair in method.pairs
    }
    assert len(distillers) > 18
    distillers['crd_pooled']['distill_losses']['loss_crd'].update(
        num_data=20, num_negatives=8
    )
    torch.manual_seed(0)
    model = RAZOR_MODELS.build(
        dict(
            type='kdvit_mm.LeanTeacherDistill',
            architecture=small_model(pair.student),
            teacher=small_model(pair.teacher),
            distiller=join(distillers),
        )
    )
    model.train()
    batch = classification_batch()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    names = [f'distill.{n}' for n in model.distiller.distill_losses]
    assert [n for n in names if not 0 < logged[n] < float('inf')] == []
    assert all(
        weight.grad is not None and weight.grad.isfinite().all()
        for weight in model.parameters()
        if weight.requires_grad
    )


def test_losses_weigh_and_warm_up_as_in_the_papers():
    kd = parsed('kd', 'kd_logits_resnet32x4_resnet8x4_240e_cifar100')
    assert kd.model.architecture.head.loss.loss_weight == 0.1
    assert kd.model.distiller.distill_losses.loss_kd.loss_weight == 0.9
    assert kd.optim_wrapper.optimizer.lr == 0.05
    assert kd.model.teacher_ckpt == 'stage://resnet32x4_240e_cifar100'
    assert len(kd.custom_hooks) == 2
    dkd = parsed('dkd', 'dkd_logits_wrn-40-2_shufflenet-v1_240e_cifar100')
    assert dkd.model.architecture.head.loss.loss_weight == 1
    assert dkd.optim_wrapper.optimizer.lr == 0.01
    assert [h.type for h in dkd.custom_hooks] == [
        'kdvit_mm.EpochSeedHook',
        'kdvit_mm.DistillWatchHook',
        'kdvit_mm.DistillScheduleHook',
    ]
    assert factors(dkd)[:20] == pytest.approx([i / 20 for i in range(1, 21)])
    assert set(factors(dkd)[20:]) == {1.0}
    in1k = parsed('dkd', 'dkd_logits_resnet34_resnet18_8xb32_in1k')
    loss = in1k.model.distiller.distill_losses.loss_dkd
    assert (loss.alpha, loss.beta, loss.tau) == (1, 0.5, 1)
    assert [h.type for h in in1k.custom_hooks] == ['kdvit_mm.DistillWatchHook']


def factors(cfg: Config) -> list[float]:
    """What the schedules of a config multiply by in each epoch."""
    found = []
    for epoch in range(cfg.train_cfg.max_epochs):
        factor = 1.0
        for schedule in cfg.custom_hooks[-1].schedules:
            given = {'begin': 0, **schedule}
            policy = POLICIES[given.pop('type')]
            for key in ('loss', 'key'):
                given.pop(key, None)
            factor *= policy(epoch, **given)
        found.append(factor)
    return found


def test_two_stages():
    name = 'annealing_logits_wrn-40-2_vgg8_240e_cifar100'
    first = parsed('annealing', name)
    assert first.model.calculate_student_loss is False
    assert factors(first) == [1 + epoch // 24 for epoch in range(240)]
    second = parsed(
        'annealing', 'annealing_finetune_wrn-40-2_vgg8_100e_cifar100'
    )
    assert second.load_from == f'stage://{name}'
    assert second.model.backbone.type == 'kdvit_mm.CIFARVGG'
    assert second.train_cfg.max_epochs == 100
    assert second.param_scheduler.milestones == [50, 75]
    again = Config.fromstring(first.pretty_text, '.py')
    assert again.to_dict() == first.to_dict()


def test_two_views():
    cfg = parsed('lskd', 'lskd-mlld_logits_wrn-40-2_vgg8_240e_cifar100')
    model = cfg.model.architecture
    assert model.data_preprocessor.type == 'kdvit_mm.TwoViewDataPreprocessor'
    assert model.head.loss.loss_weight == 0.2
    views, pack = cfg.train_dataloader.dataset.pipeline
    assert (views.type, views.num_views) == ('mmpretrain.MultiView', [1, 1])
    assert pack.type == 'mmpretrain.PackInputs'


def test_recipe_has_the_stages_that_the_configs_name(tmp_path):
    targets = [
        CONFIGS / 'distill/mmpretrain' / name
        for name in (
            'sskd/sskd_views_wrn-40-2_vgg8_240e_cifar100.py',
            'annealing/annealing_finetune_wrn-40-2_vgg8_100e_cifar100.py',
            'fsp/fsp_finetune_resnet32x4_resnet8x4_240e_cifar100.py',
        )
    ]
    recipe = CONFIGS / 'recipes/cifar100.yml'
    stages = [s.name for s in read_recipe(recipe, tmp_path, targets)]
    assert len(stages) == 8
    order = [stages.index(f'{s}_cifar100') for s in (
        'wrn-40-2_240e', 'sskd_head_wrn-40-2_60e',
        'sskd_views_wrn-40-2_vgg8_240e',
    )]  # fmt: skip
    assert order == sorted(order)
    teachers = read_recipe(CONFIGS / 'recipes/cub200.yml', tmp_path)
    assert {stage.name for stage in teachers} == {
        f'{pair.teacher}_240e_cub200' for pair in tool.CUB_PAIRS
    }
    named = re.findall(r'^  (\S+):$', recipe.read_text(), re.M)
    needed = {
        method.config(pair)
        for method in tool.METHODS
        if method.stages
        for pair in method.pairs
    } | {f'{pair.teacher}_240e_cifar100' for pair in tool.CIFAR_PAIRS}
    assert needed <= {*named}


def test_published_figures_are_of_what_is_there():
    figures = tool.figures()
    names = {
        method.config(pair) for method in tool.METHODS for pair in method.pairs
    }
    assert {*figures} <= names
    assert len(figures) > 25
    for name, figure in figures.items():
        assert 65 < figure['value'] < 80, name
        assert figure['entry']
    # mdistiller's README calls a column so that is of ShuffleNetV2.
    assert 'dkd_logits_resnet32x4_mobilenet-v2_240e_cifar100' not in figures
    assert 'kd_logits_resnet32x4_mobilenet-v2_240e_cifar100' not in figures
