# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_vgg8_240e_cifar100.py',
    '../../../_base_/distillers/sskd_views.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sskd.student_channels = 512
distiller.distill_losses.loss_sskd.teacher_channels = 128
distiller.distill_losses.loss_sskd.head_ckpt = 'stage://sskd_head_wrn-40-2_60e_cifar100'
model = dict(
    architecture=dict(data_preprocessor=dict(type=_base_.preprocessor)),
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=distiller,
)
