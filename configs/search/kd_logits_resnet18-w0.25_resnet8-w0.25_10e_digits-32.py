# The distillation of the students in configs/benchmark/students_digits.yaml.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet8-w0.25_10e_digits-32.py',
    '../_base_/distillers/kd_logits.py',
]
model = dict(distiller=_base_.distiller)
