# No public weights have these keys: configs/recipes/coco.yml trains them first.
_base_ = [
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    '../../_base_/runtime/plugin.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='kdvit_mm.ResNeXt18',
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            prefix='backbone.',
            checkpoint='stage://resnext18-32x4d_8xb32_in1k')))
