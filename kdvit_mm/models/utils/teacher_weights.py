"""Weights of a frozen teacher: loading, passing on, folding."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn


def load_teacher_checkpoint(teacher: nn.Module, path: str) -> None:
    """Loads a checkpoint into the teacher, every key of it or none.

    A teacher that is only partly loaded distils noise, and mmengine merely
    warns of it.

    Args:
        teacher (nn.Module): The teacher.
        path (str): File or URL of the checkpoint.

    Raises:
        FileNotFoundError: If the file or URL cannot be read.
        ValueError: If keys are missing, unexpected or of another shape.
    """
    try:
        checkpoint = _load_checkpoint(path, map_location='cpu')
    except OSError as error:
        raise FileNotFoundError(
            f'teacher_ckpt "{path}" cannot be read ({error}). Set '
            "model.teacher_ckpt to the teacher's checkpoint, a file or a URL."
        ) from error
    state = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(state, '_metadata', None)
    state = type(state)(
        (key.removeprefix('module.'), value) for key, value in state.items()
    )
    if metadata is not None:
        state._metadata = metadata
    if any(key.startswith('architecture.') for key in state):
        raise ValueError(
            f'teacher_ckpt "{path}" is a distillation checkpoint. Take its '
            'student out first: python tools/model_converters/'
            f'export_student.py {path} OUT'
        )
    try:
        missing, unexpected = teacher.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f'teacher_ckpt "{path}" does not fit model.teacher '
            f'({type(teacher).__name__}): {error}'
        ) from error
    missing = [k for k in missing if not k.endswith('num_batches_tracked')]
    if missing or unexpected:
        total = len(teacher.state_dict())
        raise ValueError(
            f'teacher_ckpt "{path}" does not fit model.teacher '
            f'({type(teacher).__name__}): {total - len(missing)} of {total} '
            f'keys matched, {len(missing)} missing{_examples(missing)}, '
            f'{len(unexpected)} unexpected{_examples(unexpected)}. Give the '
            'teacher the config that the checkpoint was trained with.'
        )


def _examples(keys: Sequence[str]) -> str:
    return f' (such as {", ".join(keys[:3])})' if keys else ''


def inherit_weights(
    student: nn.Module, teacher: nn.Module, modules: bool | Sequence[str]
) -> None:
    """Starts parts of the student from the teacher's weights.

    The inheriting strategy of FGD (Yang et al., CVPR 2022, arXiv 2111.11837)
    and MGD (Yang et al., ECCV 2022, arXiv 2205.01529).

    Args:
        student (nn.Module): Receives the weights.
        teacher (nn.Module): Gives them.
        modules (bool | Sequence[str]): Names of top-level modules such as
            ``('neck', 'bbox_head')``, or True for all but the backbone.

    Raises:
        ValueError: If a module is absent from one of the two, or a weight has
            another shape in the student.
    """
    ours, theirs = student.state_dict(), teacher.state_dict()
    if modules is True:
        names = [name for name, _ in student.named_children()]
        modules = [
            n for n in names if n not in ('backbone', 'data_preprocessor')
        ]
    for name in modules or ():
        own = {k for k in ours if k.startswith(f'{name}.')}
        given = {k for k in theirs if k.startswith(f'{name}.')}
        if own != given or not own:
            differing = sorted(own ^ given)
            raise ValueError(
                f'inherit: "{name}" cannot start from the teacher: '
                f'{len(own)} weights in the student, {len(given)} in the '
                f'teacher{_examples(differing)}. Leave it out of inherit.'
            )
        for key in sorted(own):
            if ours[key].shape != theirs[key].shape:
                raise ValueError(
                    f'inherit: "{key}" has shape {tuple(ours[key].shape)} in '
                    f'the student and {tuple(theirs[key].shape)} in the '
                    f'teacher. Leave "{name}" out of inherit, or give the '
                    'student the same width.'
                )
            ours[key].copy_(theirs[key])


def fold_batch_norm(model: nn.Module, recorded: Iterable[str]) -> None:
    """Folds batch norms into the convolutions before them, in place.

    Activations of the folded parts work in place too, which mmrazor forbids
    so that no record is overwritten. Left alone are blocks with a recorded
    convolution or norm inside, since its output would change, and
    convolutions that several norms share.

    Args:
        model (nn.Module): A model in eval mode.
        recorded (Iterable[str]): Names of modules that a recorder listens to.
    """
    parents = Counter(
        id(child) for module in model.modules() for child in module.children()
    )
    kept = {name for name in recorded if name}
    for name, module in model.named_modules(remove_duplicate=False):
        if parents[id(module)] > 1:
            kept.add(name)
    _fold(model, '', kept)


def _fold(module: nn.Module, name: str, kept: set[str]) -> None:
    if not any(k.startswith(f'{name}.' if name else '') for k in kept):
        fuse_conv_bn(module)
        for part in module.modules():
            if hasattr(part, 'inplace'):
                part.inplace = True  # type: ignore[assignment]
        return
    for child_name, child in module.named_children():
        _fold(child, f'{name}.{child_name}' if name else child_name, kept)


def compile_parts(model: nn.Module, recorded: Iterable[str]) -> None:
    """Compiles the largest parts of a model with no recorder inside.

    Args:
        model (nn.Module): The model; its own ``forward`` stays as it is.
        recorded (Iterable[str]): Names of modules that a recorder listens to.
    """
    sources = tuple(recorded)

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            full = f'{prefix}{name}'
            if any(source.startswith(f'{full}.') for source in sources):
                visit(child, f'{full}.')
            elif any(True for _ in child.parameters()):
                child.forward = torch.compile(child.forward)

    visit(model, '')
