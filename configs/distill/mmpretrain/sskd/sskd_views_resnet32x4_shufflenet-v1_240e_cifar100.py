# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/sskd_views.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sskd.student_channels = 960
model = dict(
    architecture=dict(data_preprocessor=dict(type=_base_.preprocessor)),
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=distiller,
)
