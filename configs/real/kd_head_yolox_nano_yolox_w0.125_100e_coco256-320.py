# Without the labels of the images.
_base_ = [
    '../_base_/pairs/yolox_nano_yolox_w0.125_100e_coco256-320.py',
    '../_base_/distillers/kd_yolox.py',
]
model = dict(calculate_student_loss=False, distiller=_base_.distiller)
