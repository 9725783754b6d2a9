"""The full-scale configs, at their full size, on small images and the CPU.

What needs a download is left out: pre-trained weights and checkpoints of
teachers. All else is what a run on eight GPUs builds.
"""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdvit_mm.analysis.doctor import count_flops
from kdvit_mm.catalog import all_methods
from kdvit_mm.engine.recipe import read_recipe
from tests.tiny import detection_batch, segmentation_batch

ROOT = Path(__file__).resolve().parents[1] / 'configs'
DISTILL = sorted((ROOT / 'distill').rglob('*.py'))
#: Those of ways of training have a test of their own, test_procedures.py.
PROCEDURES = {m.folder for m in all_methods() if m.kind == 'procedure'}
PROMPTS = [c for c in DISTILL if c.stem.startswith('freekd_prompts_')]
# Those of small networks have a test of their own, in
# test_tools/test_generate_configs.py.
PAIRS = [
    c
    for c in DISTILL
    if c not in PROMPTS
    and c.parent not in PROCEDURES
    and not c.stem.endswith(('_cifar100', '_cub200'))
]
#: One for each pair of models, schedule and data; others differ in the
#: distiller. What goes by names needs no config to be read.
PER_PAIR = {tuple(c.stem.split('_')[2:]): c for c in PAIRS}
CLASSIFIERS = [c for c in PER_PAIR.values() if 'in1k' in c.stem]
STUDENTS = sorted((ROOT / 'students').rglob('*.py'))
TEACHERS = sorted((ROOT / 'teachers').rglob('*.py'))
PRETRAIN = sorted((ROOT / 'pretrain').glob('*.py'))
SIZE = 64


@functools.cache
def parsed(config: Path) -> Config:
    return Config.fromfile(config)


@functools.cache
def published(cfg_path: str) -> Config:
    """A config of mmdet or mmseg with the URL of its weights."""
    return get_config(cfg_path, pretrained=True)


def teacher_of(config: Path) -> list[str]:
    return config.stem.split('_')[2:4]


def named(config: Path) -> str:
    return config.stem


@pytest.fixture(autouse=True)
def one_thread():
    # On maps this small threads mostly wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def offline(cfg: Any) -> Any:
    """Drops downloads, mmseg's padding to a full crop and large memories."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            offline(item)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in ('pretrained', 'teacher_ckpt') or (
                key == 'init_cfg' and value and value['type'] == 'Pretrained'
            ):
                cfg[key] = None
            offline(value)
        if cfg.get('type') == 'SegDataPreProcessor':
            cfg['size'] = (SIZE, SIZE)
        if 'num_data' in cfg:
            cfg['num_data'] = 8
        if 'pixel_memory' in cfg:
            # Of all classes and channels it would be a gigabyte.
            cfg['pixel_memory'] = cfg['region_memory'] = 400
    return cfg


# One at a time: the largest has 95 million parameters.
@functools.lru_cache(maxsize=1)
def built_teacher(cfg_path: str) -> nn.Module:
    package = cfg_path.split('::')[0]
    with DefaultScope.overwrite_default_scope(package):
        teacher = MODELS.build(
            offline(copy.deepcopy(published(cfg_path).model))
        )
    # As after loading a checkpoint.
    teacher._is_init = True
    return teacher


def untouched_teacher(cfg_path: str) -> nn.Module:
    """The teacher without what earlier tests left at it."""
    teacher = built_teacher(cfg_path).requires_grad_(True)
    for module in teacher.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return teacher


def build(cfg: Config, **changes: Any) -> nn.Module:
    """Builds a config's model as the runner does."""
    cfg = offline(copy.deepcopy(cfg._cfg_dict))
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(dict(cfg.model, **changes))
        model.init_weights()
    model.train()
    return model


def batch(cfg: Config) -> dict:
    """Two images for the student of a config."""
    if cfg.default_scope == 'mmdet':
        return detection_batch(size=SIZE)
    if cfg.default_scope == 'mmseg':
        model = cfg.model.get('architecture', cfg.model)
        if 'cfg_path' in model:
            model = published(model.cfg_path).model
        return segmentation_batch(2, SIZE, model.decode_head.num_classes)
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        image = torch.randint(
            256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8
        )
        sample = DataSample(metainfo=dict(sample_idx=len(samples)))
        sample.set_gt_label(3)
        samples.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(samples)


def family(config: Path) -> tuple[str, ...]:
    """What makes the step of a config another one: method, place, models."""
    _, place, *models = config.stem.split('_')
    folder = config.parent.relative_to(ROOT / 'distill')
    # Two methods stand for what is recorded of segmentors.
    if folder.parts[0] == 'mmdet' or str(folder) in (
        'mmseg/kd',
        'mmseg/cirkd',
    ):
        return (str(folder), place, *models[:3:2])
    # The stages of classifiers are named one by one.
    return (str(folder), place, models[0] if place == 'stages' else '')


def train_one_step(model: nn.Module, cfg: Config) -> dict[str, float]:
    """Trains a step with the config's optimiser and returns the losses."""
    torch.manual_seed(0)
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(batch(cfg), True)
    with optimiser.optim_context(model):
        losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    optimiser.backward(total)
    # DistributedDataParallel waits for the gradient of each of them.
    assert [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ] == []
    optimiser.step()
    values = {name: float(value) for name, value in logged.items()}
    assert all(torch.isfinite(torch.tensor([*values.values()])))
    assert all(torch.isfinite(w).all() for w in model.parameters())
    return values


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def trained_parts(model: nn.Module) -> dict[str, torch.Tensor]:
    """A trainable weight of each part of a model, as it is now."""
    parts = {
        name: [w for w in part.parameters() if w.requires_grad]
        for name, part in model.named_children()
    }
    return {name: ws[0].clone() for name, ws in parts.items() if ws}


@pytest.mark.parametrize(
    'config',
    sorted({family(c): c for c in PAIRS[::-1]}.values(), key=teacher_of),
    ids=named,
)
def test_distillation_step(config, tmp_path):
    cfg = parsed(config)
    prompts = cfg.model.distiller.distill_losses.get('loss_freekd')
    changes = dict(teacher=untouched_teacher(cfg.model.teacher.cfg_path))
    if prompts is not None:
        distiller = cfg.model.distiller.to_dict()
        distiller['distill_losses']['loss_freekd']['prompt_ckpt'] = str(
            learned_prompts(prompts, tmp_path / 'prompts.pth')
        )
        changes['distiller'] = distiller
    model = build(cfg, **changes)
    before = trained_parts(model.student)
    assert size(model.student) < size(model.teacher)
    kept = [weight.clone() for weight in model.teacher.parameters()]
    losses = train_one_step(model, cfg)
    assert {
        name: losses[f'distill.{name}']
        for name in model.distiller.distill_losses
        if not losses[f'distill.{name}'] > 0
    } == {}
    for name, weight in trained_parts(model.student).items():
        assert not torch.equal(weight, before[name]), name
    assert all(map(torch.equal, kept, model.teacher.parameters()))


def builds() -> list[Path]:
    """Configs with a distiller of their own, and one for each other pair."""
    own = [
        c
        for c in PAIRS
        if 'distiller = ' in c.read_text() and 'in1k' not in c.stem
    ]
    pairs = {c.stem.split('_', 2)[2]: c for c in PAIRS + own}
    detectors = [c for c in PAIRS if c.parent.parent.name == 'mmdet']
    return sorted({*detectors, *own, *pairs.values()})


@pytest.mark.parametrize('config', builds(), ids=named)
def test_distillation_builds_with_the_sizes_of_the_table(config, tmp_path):
    cfg = copy.deepcopy(parsed(config)._cfg_dict)
    prompts = cfg.model.distiller.distill_losses.get('loss_freekd')
    if prompts is not None:
        prompts.prompt_ckpt = str(
            learned_prompts(prompts, tmp_path / 'prompts.pth')
        )
    labels = [
        label(published(cfg.model.teacher.cfg_path).model),
        label(cfg.model.architecture),
    ]
    # mmpretrain's ResNets, SegFormers and the choice of levels compute while
    # they are built.
    computes = (
        cfg.default_scope == 'mmpretrain'
        or 'RX18' in labels[1]
        or 'MiT' in labels[1]
        or config.parent.name == 'levels'
    )
    cfg.model.teacher.pretrained = False
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        torch.device('cpu' if computes else 'meta'),
    ):
        for side in ('architecture', 'teacher'):
            cfg.model[side] = with_classes_of_the_table(cfg.model[side])
        model = MODELS.build(offline(cfg.model))
    sizes = [f'{size(m) / 1e6:.2f}' for m in (model.teacher, model.student)]
    assert sizes == [table_of_sizes()[name][0] for name in labels]


def learned_prompts(loss: dict, path: Path) -> Path:
    state = {
        f'mask_modules.{index}.mask_token': torch.randn(
            4, loss['num_tokens'], channels
        )
        for index, channels in enumerate(loss['channels'])
    }
    torch.save(dict(state_dict=state), path)
    return path


@pytest.mark.parametrize('config', PROMPTS, ids=named)
def test_prompt_learning_step(config):
    cfg = parsed(config)
    teacher = untouched_teacher(cfg.model.architecture.cfg_path)
    model = build(cfg, architecture=teacher)
    tokens = [token.clone() for token in model.mask_modules.parameters()]
    kept = [weight.clone() for weight in teacher.parameters()]
    losses = train_one_step(model, cfg)
    assert losses['loss_overlap'] > 0
    assert len(tokens) == len(cfg.model.channels)
    assert not any(map(torch.equal, tokens, model.mask_modules.parameters()))
    assert all(map(torch.equal, kept, teacher.parameters()))


@pytest.mark.parametrize(
    'config',
    [
        *(c for c in STUDENTS if c.parent.name != 'mmseg'),
        # The two of mmseg with a data set of this package.
        *(c for c in STUDENTS if 'camvid' in c.stem),
        *PRETRAIN,
    ],
    ids=named,
)
def test_student_step(config):
    cfg = parsed(config)
    model = build(cfg)
    before = trained_parts(model)
    train_one_step(model, cfg)
    for name, weight in trained_parts(model).items():
        assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize(
    'config',
    [
        *{c.parent: c for c in PAIRS if 'in1k' not in c.stem}.values(),
        *CLASSIFIERS,
        *{(c.parent, c.stem.split('_')[0]): c for c in STUDENTS}.values(),
        *TEACHERS,
        *PRETRAIN,
    ],
    ids=named,
)
def test_config_survives_a_dump(config):
    cfg = parsed(config)
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()
    # What names a class of the package imports it.
    if 'kdvit_mm' in cfg.pretty_text:
        assert cfg.custom_imports.imports == ['kdvit_mm']


def test_teacher_checkpoints_are_the_published_ones():
    for config in PER_PAIR.values():
        model = parsed(config).model
        if model.teacher_ckpt.startswith('stage://'):
            continue
        weights = published(model.teacher.cfg_path).model_path
        assert model.teacher_ckpt == weights, config


def test_stages_named_in_configs_are_in_the_recipes(tmp_path):
    stages = {
        stage.name: parsed(stage.config).model
        for name in ('coco', 'cityscapes', 'camvid')
        for stage in read_recipe(ROOT / f'recipes/{name}.yml', tmp_path)
    }
    pretrained = [c for c in PRETRAIN if c.stem.endswith('_in1k')]
    prepared = {c.stem for c in PROMPTS + pretrained + TEACHERS}
    assert prepared <= {*stages}
    used = set()
    freekd = {c for c in PAIRS if c.parent.name == 'freekd'}
    for config in freekd | {*PER_PAIR.values()}:
        model = parsed(config).model
        loss = model.distiller.distill_losses.get('loss_freekd')
        if loss is not None:
            name = loss.prompt_ckpt.removeprefix('stage://')
            used.add(name)
            for key in ('channels', 'num_tokens'):
                assert stages[name][key] == loss[key]
            teacher = stages[name].architecture.cfg_path
            assert teacher == model.teacher.cfg_path
        if model.teacher_ckpt.startswith('stage://'):
            used.add(model.teacher_ckpt.removeprefix('stage://'))
        backbone = model.architecture.backbone
        if backbone.type == 'kdvit_mm.ResNeXt18':
            used.add(backbone.init_cfg.checkpoint.removeprefix('stage://'))
    assert used == prepared


def test_teacher_needs_only_its_checkpoint(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError('no network')

    cfg = copy.deepcopy(parsed(PAIRS[0]))
    offline(cfg.model.architecture)
    cfg.model.distiller.distill_losses = {}
    cfg.model.distiller.loss_forward_mappings = {}
    cfg.model.teacher.cfg_path = (
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    )
    weights = untouched_teacher(cfg.model.teacher.cfg_path).state_dict()
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=weights), cfg.model.teacher_ckpt)
    monkeypatch.setattr('socket.getaddrinfo', refuse)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    for name, weight in model.teacher.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def full_size_models() -> list:
    """Configs of all students and teachers, with repetitions."""
    pairs = [parsed(config).model for config in PER_PAIR.values()]
    return [pair.architecture for pair in pairs] + [
        published(pair.teacher.cfg_path).model for pair in pairs
    ]


def with_classes_of_the_table(cfg: dict) -> dict:
    """A copy in which a segmentor has the classes of Cityscapes."""
    cfg = copy.deepcopy(cfg)
    model = published(cfg['cfg_path']).model if 'cfg_path' in cfg else cfg
    for head in {'decode_head', 'auxiliary_head'} & model.keys():
        cfg[head] = dict(cfg.get(head, {}), num_classes=19)
    return cfg


def label(model: dict) -> str:
    """Name of a model in the table of sizes."""
    if model.type == 'EncoderDecoder':
        return segmentor_label(model)
    backbone = model.backbone
    if backbone.type == 'kdvit_mm.ResNeXt18':
        name = 'RX18'
    elif backbone.type == 'ResNeXt':
        name = f'X{backbone.depth}-{backbone.groups}x{backbone.base_width}d'
    else:
        name = f'R{backbone.get("depth")}'
    if model.type == 'ImageClassifier':
        if backbone.type == 'kdvit_mm.MobileNetV1':
            return 'MobileNetV1'
        return f'{backbone.type}-{backbone.depth}'
    return f'{model.type} {name}'.replace('FasterRCNN', 'Faster R-CNN')


def segmentor_label(model: dict) -> str:
    backbone, head = model.backbone, model.decode_head.type
    if head == 'SegformerHead':
        # B0 has two blocks in its third stage.
        size = {2: 'B0', 27: 'B4'}[backbone.num_layers[2]]
        return f'SegFormer MiT-{size}'
    name = f'R{backbone.depth}' if 'depth' in backbone else backbone.type
    if head == 'UPerHead':
        return f'UPerNet {name}'
    return f'{dict(PSPHead="PSPNet", ASPPHead="DeepLabV3")[head]} {name}-D8'


SCOPES = {'EncoderDecoder': 'mmseg', 'ImageClassifier': 'mmpretrain'}
IMAGES = {'EncoderDecoder': (512, 1024), 'ImageClassifier': (224, 224)}


def image_size(model: dict) -> tuple[int, int]:
    """Height and width that the table of sizes counts operations at."""
    return IMAGES.get(model['type'], (800, 1280))


def on_meta(cfg: Any) -> nn.Module:
    """A model whose cost can be counted without computing anything."""
    scope = SCOPES.get(cfg['type'], 'mmdet')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg)
    model.eval()
    return model.to('meta')


def published_cost(backbone: dict) -> tuple[int, float]:
    """Parameters and multiply-adds at 224x224 with a head for ImageNet."""
    name = f'{backbone["type"]}{backbone["depth"]}'.lower()
    if name.startswith('resnext'):
        name += f'_{backbone["groups"]}x{backbone["base_width"]}d'
    if name == 'resnext101_32x4d':  # which torchvision has not
        folder = Path(get_installed_path('mmpretrain')) / '.mim/configs'
        index = yaml.safe_load((folder / 'resnext/metafile.yml').read_text())
        metadata = next(
            model['Metadata']
            for model in index['Models']
            if model['Name'] == 'resnext101-32x4d_8xb32_in1k'
        )
        return metadata['Parameters'], metadata['FLOPs']
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    return weights.meta['num_params'], weights.meta['_ops'] * 1e9


def test_backbones_cost_what_torchvision_and_mmpretrain_publish():
    costs = {
        published_cost(model.backbone): model.backbone
        for model in full_size_models()
        if model.backbone.type in ('ResNet', 'ResNeXt')
    }
    assert len(costs) == 6
    for (parameters, multiply_adds), cfg in costs.items():
        backbone = on_meta(dict(cfg, init_cfg=None))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            maps = backbone(torch.zeros(1, 3, 224, 224, device='meta'))
        head = 1000 * maps[-1].size(1)
        # mmpretrain rounds to 10,000 parameters and 10 million operations.
        assert size(backbone) + head + 1000 == pytest.approx(
            parameters, abs=5000
        )
        assert counter.get_total_flops() / 2 + head == pytest.approx(
            multiply_adds, rel=0.01
        )


def test_retinanet_costs_what_mmdet_publishes():
    # docs/en/user_guides/useful_tools.md of mmdet 3.3, "Model Complexity":
    # (3, 1280, 800), 239.32 GFLOPs, 37.74 M. It counts trainable parameters,
    # and norms and activations among the operations.
    models = {label(model): model for model in full_size_models()}
    model = on_meta(models['RetinaNet R50'])
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert round(trained / 1e6, 2) == 37.74
    images = torch.zeros(1, 3, 1280, 800, device='meta')
    flops = count_flops(model, dict(inputs=images))
    assert flops == pytest.approx(239.32e9, rel=0.005)


def table_of_sizes() -> dict[str, tuple[str, str]]:
    """Parameters and multiply-adds by model, as docs/methods.md has them."""
    text = (ROOT.parent / 'docs/methods.md').read_text()
    rows = re.findall(r'^\| (.*) \| (\d+\.\d\d) \| (.*) \|$', text, re.M)
    return {name: (size, flops) for name, size, flops in rows}


def test_table_of_sizes_is_true():
    table = table_of_sizes()
    models = {label(model): model for model in full_size_models()}
    assert models.keys() == table.keys()
    for name, cfg in models.items():
        model = on_meta(with_classes_of_the_table(cfg))
        images = torch.zeros(1, 3, *image_size(cfg), device='meta')
        flops = count_flops(model, dict(inputs=images))
        counted = (
            f'{size(model) / 1e6:.2f}',
            f'{flops / 1e9:.1f}' if flops else '\N{EN DASH}',
        )
        assert counted == table[name], name
