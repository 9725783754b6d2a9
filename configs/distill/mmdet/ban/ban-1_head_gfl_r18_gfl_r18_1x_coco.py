# The first generation of born-again detectors.
_base_ = [
    '../../../students/mmdet/gfl_r18_fpn_1x_coco.py',
    '../../../_base_/runtime/plugin.py',
    '../../../_base_/distillers/kd_gfl.py',
]
teacher = 'gfl_r18_fpn_1x_coco'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
# All generations start from weights of their own.
randomness = dict(seed=1)
