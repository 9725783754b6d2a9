"""Where in an image a classifier of mmpretrain sees a class."""

import difflib
import re
from typing import Any

import mmcv
import numpy as np
import torch
from mmpretrain.models import GlobalAveragePooling, LinearClsHead
from torch import nn


def activation_map(
    model: nn.Module, image: torch.Tensor, label: int, layer: str | None = None
) -> np.ndarray:
    """Computes what in an image speaks for a class.

    Where one linear layer classifies the average of the backbone's last map,
    it is the class activation map of Zhou et al., *Learning Deep Features for
    Discriminative Localization*, CVPR 2016, arXiv:1512.04150. Elsewhere it is
    that of Selvaraju et al., *Grad-CAM*, ICCV 2017, arXiv:1610.02391. What
    speaks against the class is left out of both, and where both can be had
    they are equal.

    Args:
        model (nn.Module): An ``ImageClassifier`` in eval mode.
        image (torch.Tensor): Preprocessed image of shape (1, 3, H, W).
        label (int): The class.
        layer (str | None): Name of the module whose output Grad-CAM takes.
            Defaults to None: the backbone's last map, or in a transformer
            that returns none the norm before its last attention.

    Returns:
        np.ndarray: Map of shape (H, W), scaled to reach from 0 to 1.

    Raises:
        ValueError: If the model has no such layer, or none to take.
        ImportError: If Grad-CAM is needed and not installed.
    """
    if layer is None and averages_and_classifies(model):
        found = class_map(model, image, label)
    else:
        found = _grad_cam(model, image, label, layer)
    height, width = image.shape[-2:]
    found = mmcv.imresize(np.maximum(found, 0), (width, height))
    found -= found.min()
    return found / max(found.max(), 1e-7)


def averages_and_classifies(model: Any) -> bool:
    """Whether one linear layer classifies the average of the last map.

    Args:
        model (nn.Module): An ``ImageClassifier``.

    Returns:
        bool: Whether it has a class activation map.
    """
    return (
        isinstance(model.neck, GlobalAveragePooling)
        and isinstance(model.neck.gap, nn.AdaptiveAvgPool2d)
        and isinstance(model.head, LinearClsHead)
    )


@torch.no_grad()
def class_map(model: Any, image: torch.Tensor, label: int) -> np.ndarray:
    """Computes a class activation map.

    Args:
        model (nn.Module): An ``ImageClassifier`` that averages and classifies.
        image (torch.Tensor): Preprocessed image of shape (1, 3, H, W).
        label (int): The class.

    Returns:
        np.ndarray: Map of the size of the backbone's last one. Its mean is the
        class's logit without the bias.
    """
    (last,) = model.backbone(image)[-1]
    found = torch.einsum('chw, c -> hw', last, model.head.fc.weight[label])
    return found.cpu().numpy()


class _Watched(nn.Module):
    """A classifier whose last map is the output of a module.

    Args:
        model (nn.Module): The classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.last = nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Computes the logits."""
        *others, last = self.model.backbone(image)
        features = (*others, self.last(last))
        if self.model.with_neck:
            features = self.model.neck(features)
        return self.model.head(features)


def _grad_cam(
    model: nn.Module, image: torch.Tensor, label: int, layer: str | None
) -> np.ndarray:
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ImportError(
            'Grad-CAM is not installed: pip install --no-deps -r '
            'requirements/nodeps.txt. It is needed where no linear layer '
            'classifies the average of the last map, or a layer is named.'
        ) from error

    def to_map(output: torch.Tensor) -> torch.Tensor:
        # A copy, as what follows the layer may work in place.
        return _as_map(output, image, model).clone()

    watched = _Watched(model)
    if layer is not None:
        target = _named_layer(model, layer)
    else:
        target = _default_layer(watched, image)
    # Maps of a frozen teacher have a gradient only if the image has one.
    inputs = image.clone().requires_grad_()
    with GradCAM(watched, [target], to_map) as cam:
        found: np.ndarray = cam(inputs, [ClassifierOutputTarget(label)])
    return found[0]


def _named_layer(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        close = difflib.get_close_matches(name, modules, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ''
        raise ValueError(f'{type(model).__name__} has no "{name}".{hint}')
    return modules[name]


@torch.no_grad()
def _default_layer(watched: _Watched, image: torch.Tensor) -> nn.Module:
    backbone = watched.model.backbone
    if backbone(image)[-1].dim() == 4:
        return watched.last
    norms = [
        part
        for name, part in backbone.named_modules()
        if re.search(r'\.\d+\.ln1$', name)
    ]
    if not norms:
        raise ValueError(
            f'{type(backbone).__name__} returns no map: name the layer to '
            'take.'
        )
    return norms[-1]


def _as_map(
    output: torch.Tensor, image: torch.Tensor, model: Any
) -> torch.Tensor:
    """Takes a map, or puts the tokens of a transformer in their places."""
    if output.dim() == 4:
        return output
    if output.dim() == 3:
        extra = getattr(model.backbone, 'num_extra_tokens', 0)
        tokens = output[:, extra:].movedim(1, -1)
        height, width = image.shape[-2:]
        rows = round((tokens.shape[-1] * height / width) ** 0.5)
        if rows and tokens.shape[-1] % rows == 0:
            return tokens.unflatten(-1, (rows, -1))
    raise ValueError(
        f'The layer puts out the shape {tuple(output.shape)}, which is not a '
        'map and has no token for each place: name another one.'
    )
