_base_ = [
    '../../students/mmdet/gfl_r34_fpn_1x_coco.py',
    '../runtime/plugin.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'),
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth')  # noqa: E501
