"""A batch's samples for one of two models that see the same batch."""

from typing import Any

from mmengine.structures import BaseDataElement

# Metainfo by which images are told apart, and not how they look.
IDENTITY = frozenset({'img_id', 'img_path', 'sample_idx', 'seg_map_path'})


def own_samples(samples: Any) -> Any:
    """Copies samples so that setting a field does not change the originals.

    RTMDet-Ins, for example, replaces the masks of the ground truth by tensors
    of its own while it computes its losses. Tensors are shared.

    Args:
        samples (Any): A sample, or a list, tuple or dict of samples.

    Returns:
        Any: The same structure, of copies.
    """
    if isinstance(samples, BaseDataElement):
        copied = samples.clone()
        for key, value in samples.items():
            if isinstance(value, BaseDataElement):
                setattr(copied, key, own_samples(value))
        return copied
    if isinstance(samples, dict):
        return type(samples)((k, own_samples(v)) for k, v in samples.items())
    if isinstance(samples, (list, tuple)):
        return type(samples)([own_samples(item) for item in samples])
    return samples


def without_truth(samples: Any) -> Any:
    """Leaves of samples what they say of the image itself.

    Args:
        samples (Any): A list of samples, or None.

    Returns:
        Any: A list of samples with metainfo alone, without what names the
        image or its file; None for None.
    """
    if samples is None:
        return None
    return [
        type(sample)(
            metainfo={
                key: value
                for key, value in sample.metainfo.items()
                if key not in IDENTITY
            }
        )
        for sample in samples
    ]
