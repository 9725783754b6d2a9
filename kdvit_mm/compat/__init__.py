"""Mends for mmrazor 1.0.0, mmengine 0.10.7 and friends on today's PyTorch.

One fact a file in :mod:`kdvit_mm.compat.patches`. A patch is tied to the
modules it mends and is applied right after such a module was imported, only
where its ``needed()`` says so. ``python -m kdvit_mm.compat`` lists them.

This file is run at every start of the interpreter (the package installs a
``.pth`` file for it), so that scripts which know nothing of kdvit_mm, such as
mmrazor's own ``tools/train.py``, work too. It must stay cheap: no imports
beyond what the interpreter has loaded anyway, and no parent package.
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
    'cpu_distributed': ('mmengine.dist.utils', 'mmengine.runner.runner'),
    'safe_weights': ('mmengine.runner.checkpoint', 'mmengine.runner.runner'),
    'intact_checkpoints': (
        'mmengine.fileio.backends.local_backend',
        'mmengine.hooks.checkpoint_hook',
        'mmengine.runner.checkpoint',
        'mmengine.runner.runner',
    ),
    'numpy_names': (
        'mmcv.ops.pixel_group',
        'mmdet.evaluation.functional.ytviseval',
        'mmpretrain.evaluation.metrics.retrieval',
        'mmrazor.models.task_modules.predictor.metric_predictor',
    ),
    'mim_editable': ('mim.utils.utils',),
}
applied: dict[str, list[str]] = {}


def patch_module(name):  # type: ignore[no-untyped-def]
    """Imports the patch ``name`` and returns its module."""
    # Unlike the import statement it does not import the package kdvit_mm.
    from importlib import import_module

    return import_module(f'kdvit_mm.compat.patches.{name}')


def _apply(target):  # type: ignore[no-untyped-def]
    for name, targets in PATCHES.items():
        done = applied.setdefault(name, [])
        if target in targets and target not in done:
            patch = patch_module(name)
            if patch.needed():
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
            exec_module(module)
            _apply(name)

        spec.loader.exec_module = exec_and_apply
        return spec


def install() -> None:
    """Applies what is due now and watches for modules imported later."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    for target in _Finder.targets & sys.modules.keys():
        _apply(target)
