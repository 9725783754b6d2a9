_base_ = '../../students/mmdet/gfl_rx18-32x4d_fpn_1x_coco.py'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmdet::gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py'),
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_x101_32x4d_fpn_mstrain_2x_coco/gfl_x101_32x4d_fpn_mstrain_2x_coco_20200630_102002-50c1ffdb.pth')  # noqa: E501
