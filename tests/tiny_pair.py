# ruff: noqa: C408  (configs read best as dict())
"""A small GFL student and teacher, distilled as a config says."""

from collections.abc import Sequence

import mmdet.models  # noqa: F401
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.structures import InstanceData
from mmrazor.registry import MODELS

import kdvit_mm  # noqa: F401


def gfl(channels: int) -> dict:
    base = channels // 2
    return dict(
        _scope_='mmdet',
        type='GFL',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_size_divisor=32
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=base),
        neck=dict(
            type='FPN',
            in_channels=[base, base * 2, base * 4, base * 8],
            out_channels=channels,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5,
        ),
        bbox_head=dict(
            type='GFLHead',
            num_classes=3,
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128],
            ),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
            loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
            reg_max=16,
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6)),
    )


def distill(
    losses: dict,
    connectors: dict,
    with_boxes: bool = True,
    channels: Sequence[int] = (8, 16),
    type: str = 'LeanTeacherDistill',
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """One step of a pair on two images of different sizes.

    Args:
        losses (dict): Distill losses as ``name_LEVEL``.
        connectors (dict): Connectors, ``connector_LEVEL`` by level.
        with_boxes (bool): Whether the losses get the samples.
        channels (Sequence[int]): Of student and teacher pyramid.
        type (str): The algorithm.

    Returns:
        tuple: The algorithm and its losses.
    """
    mappings = {}
    for name in losses:
        level = int(name[-1])
        common = dict(recorder='fpn', data_idx=level)
        mappings[name] = dict(
            preds_S=dict(from_student=True, **common),
            preds_T=dict(from_student=False, **common),
        )
        if connectors:
            mappings[name]['preds_S']['connector'] = f'connector_{level}'
        if with_boxes:
            mappings[name]['data_samples'] = dict(
                recorder='data_samples', from_student=True, data_idx=1
            )
    fpn = dict(type='ModuleOutputs', source='neck')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type=f'kdvit_mm.{type}' if 'Lean' in type else type,
            architecture=gfl(channels[0]),
            teacher=gfl(channels[1]),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    fpn=fpn,
                    data_samples=dict(type='ModuleInputs', source=''),
                ),
                teacher_recorders=dict(fpn=fpn),
                connectors=connectors,
                distill_losses=losses,
                loss_forward_mappings=mappings,
            ),
        )
    )
    model.init_weights()
    batch = demo_mm_inputs(
        2, image_shapes=[(3, 64, 96), (3, 50, 120)], num_items=[3, 2]
    )
    sample = batch['data_samples'][0]
    boxes = torch.tensor([[3.0, 4, 40, 60], [8, 8, 20, 14], [50, 0, 96, 64]])
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.zeros(3, dtype=torch.long)
    )
    return model, model(**model.data_preprocessor(batch, True), mode='loss')
