# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/crd_pooled.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_crd.student_channels = 1280
model = dict(distiller=distiller)
