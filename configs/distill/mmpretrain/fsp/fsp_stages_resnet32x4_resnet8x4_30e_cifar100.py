# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/fsp_stages.py',
]
model = dict(
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=_base_.distiller,
)
train_cfg = dict(max_epochs=30)
