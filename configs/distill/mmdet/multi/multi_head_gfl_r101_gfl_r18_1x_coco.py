# Two teachers; the one with the lower loss counts more.
_base_ = [
    '../../../students/mmdet/gfl_r18_fpn_1x_coco.py',
    '../../../_base_/runtime/plugin.py',
    '../../../_base_/distillers/multi_gfl.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MultiTeacherDistill',
    architecture=_base_.model,
    teachers=[
        dict(
            name='wide',
            teacher=dict(cfg_path='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'),
            teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth'),  # noqa: E501
        dict(
            name='narrow',
            teacher=dict(cfg_path='mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
            teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_1x_coco/gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth')],  # noqa: E501
    weights='loss',
    distiller=_base_.distiller)
