# TAKD's second stage: the student, distilled from the assistant.
_base_ = [
    '../../../_base_/pairs/gfl_r101_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/kd_gfl.py',
]
teacher = 'takd_assistant_gfl_r101_gfl_r50_1x_coco/student'
model = dict(
    teacher=dict(cfg_path='mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
