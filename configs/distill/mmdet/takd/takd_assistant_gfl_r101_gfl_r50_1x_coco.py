# TAKD's first stage: the assistant, distilled from the teacher.
_base_ = [
    '../../../_base_/pairs/gfl_r101_gfl_r50_1x_coco.py',
    '../../../_base_/distillers/kd_gfl.py',
]
model = dict(distiller=_base_.distiller)
