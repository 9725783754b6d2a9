# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/crd_pooled.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_crd.student_channels = 960
distiller.distill_losses.loss_crd.teacher_channels = 128
model = dict(distiller=distiller)
