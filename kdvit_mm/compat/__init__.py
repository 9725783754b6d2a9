"""Compatibility patches for mmrazor 1.0.0 and mmengine 0.10.7.

One fact per file in :mod:`kdvit_mm.compat.patches`. A patch is tied to the
modules it changes and is applied right after such a module was imported, only
where its ``needed()`` says so. ``python -m kdvit_mm.compat`` lists them.

This file is run at every start of the interpreter (the package installs a
``.pth`` file for it), so that scripts which know nothing of kdvit_mm, such as
mmrazor's own ``tools/train.py``, start too. Then only the patches of
``AT_STARTUP`` are active, without which something cannot be imported or
started; the others follow when kdvit_mm is imported. It must stay cheap: no
imports beyond what the interpreter has loaded anyway, and no parent package.
``KDVIT_MM_STARTUP=0`` turns the start-up file off.
"""

import sys

# Patch -> the modules after whose import it is applied.
PATCHES = {
    'quantization': (
        'mmrazor',
        'mmrazor.models.quantizers.base',
        'mmrazor.structures.quantization.backend_config.academic',
        'mmrazor.structures.quantization.backend_config.native',
        'mmrazor.structures.quantization.backend_config.openvino',
        'mmrazor.structures.quantization.backend_config.tensorrt',
    ),
    'local_rank_option': ('mmrazor',),
    'closest_source_names': (
        'mmrazor.models.task_modules.recorder.module_outputs_recorder',
    ),
    'inplace_activations': ('mmrazor.models.algorithms.base',),
    'intact_records': (
        'mmrazor.models.task_modules.delivery.distill_delivery',
        'mmrazor.models.task_modules.recorder.base_recorder',
        'mmrazor.models.task_modules.recorder.function_inputs_recorder',
        'mmrazor.models.task_modules.recorder.method_inputs_recorder',
        'mmrazor.models.task_modules.recorder.module_inputs_recorder',
    ),
    'recorder_classes': (
        'mmrazor.models.task_modules.delivery.delivery_manager',
        'mmrazor.models.task_modules.recorder.recorder_manager',
    ),
    'cfg_path_keys': ('mmrazor.registry.registry',),
    'weights_find_owner': ('mmengine.runner.checkpoint',),
    'student_inference': (
        'mmdet.apis.inference',
        'mmengine.infer.infer',
        'mmpretrain.apis.model',
        'mmseg.apis.inference',
    ),
    'cpu_distributed': ('mmengine.dist.utils', 'mmengine.runner.runner'),
    'safe_weights': ('mmengine.runner.checkpoint', 'mmengine.runner.runner'),
    'intact_checkpoints': (
        'mmengine.fileio.backends.local_backend',
        'mmengine.hooks.checkpoint_hook',
        'mmengine.runner',
        'mmengine.runner.checkpoint',
        'mmengine.runner.runner',
    ),
    'student_view': (
        'mmengine.optim.optimizer.builder',
        'mmengine.optim.optimizer',
        'mmengine.optim',
        'mmengine.runner.runner',
    ),
    'numpy_names': (
        'mmcv.ops.pixel_group',
        'mmdet.evaluation.functional.ytviseval',
        'mmpretrain.evaluation.metrics.retrieval',
        'mmrazor.models.task_modules.predictor.metric_predictor',
    ),
    'crd_class_sizes': ('mmrazor.datasets.crd_dataset_wrapper',),
    'mim_editable': ('mim.utils.utils',),
    'mmcls_imports': (
        'mmrazor.datasets.transforms.formatting',
        'mmrazor.models.architectures.backbones.searchable_autoformer',
        'mmrazor.models.architectures.backbones.searchable_mobilenet_v2',
        'mmrazor.models.architectures.backbones.searchable_mobilenet_v3',
        'mmrazor.models.architectures.backbones.searchable_shufflenet_v2',
        'mmrazor.models.architectures.classifiers.image',
        'mmrazor.models.architectures.dynamic_ops.bricks.dynamic_embed',
        'mmrazor.models.architectures.dynamic_ops.head.dynamic_linear_head',
        'mmrazor.models.architectures.heads.darts_subnet_head',
        'mmrazor.models.architectures.heads.deit_head',
        'mmrazor.models.architectures.ops.efficientnet_series',
        'mmrazor.models.architectures.ops.mobilenet_series',
        'mmrazor.models.architectures.ops.shufflenet_series',
        'mmrazor.models.losses.kd_soft_ce_loss',
        'mmrazor.models.task_modules.demo_inputs.default_demo_inputs',
        'mmrazor.models.task_modules.demo_inputs.demo_inputs',
        'mmrazor.models.task_modules.tracer.loss_calculator.'
        'image_classifier_loss_calculator',
    ),
    'mmcls_scope': (
        'mmengine.config.utils',
        'mmengine.registry.default_scope',
        'mmengine.registry.registry',
        'mmengine.hub',
        'mmengine.hub.hub',
        'mmpretrain.visualization.visualizer',
    ),
}
# What the start-up file applies: without these something does not start.
AT_STARTUP = (
    'quantization',
    'local_rank_option',
    'numpy_names',
    'mim_editable',
    'mmcls_imports',
    'student_inference',
)
# What changes a module before it is run, too.
PREPARED = ('mmcls_imports',)
active: set[str] = set()
applied: dict[str, list[str]] = {}


def patch_module(name):  # type: ignore[no-untyped-def]
    """Imports the patch ``name`` and returns its module."""
    # Unlike the import statement it does not import the package kdvit_mm.
    from importlib import import_module

    return import_module(f'kdvit_mm.compat.patches.{name}')


def _due(target, names):  # type: ignore[no-untyped-def]
    for name in names:
        if name in active and target in PATCHES[name]:
            patch = patch_module(name)
            if patch.needed():
                yield name, patch


def _apply(target):  # type: ignore[no-untyped-def]
    for name, patch in _due(target, PATCHES):
        done = applied.setdefault(name, [])
        if target not in done:
            patch.apply(sys.modules[target])
            done.append(target)


class _Finder:
    """Applies the patches of a module as soon as it has been imported."""

    targets = frozenset(t for targets in PATCHES.values() for t in targets)

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name not in cls.targets:
            return None
        for finder in sys.meta_path:
            if finder is not cls and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    break
        else:
            return None
        exec_module = getattr(spec.loader, 'exec_module', None)
        if exec_module is None:
            return spec

        def exec_and_apply(module):  # type: ignore[no-untyped-def]
            for _, patch in _due(name, PREPARED):
                patch.prepare(module)
            exec_module(module)
            _apply(name)

        spec.loader.exec_module = exec_and_apply
        return spec


def install(names: tuple[str, ...] = tuple(PATCHES)) -> None:
    """Applies what is due now and watches for modules imported later.

    Args:
        names (tuple[str, ...]): Which patches. Default: all.
    """
    active.update(names)
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    for target in _Finder.targets & sys.modules.keys():
        _apply(target)
