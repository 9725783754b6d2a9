# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/fsp_stages_small.py',
]
model = dict(
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=_base_.distiller,
)
