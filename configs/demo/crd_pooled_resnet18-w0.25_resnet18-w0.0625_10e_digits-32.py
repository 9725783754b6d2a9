# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/crd_pooled.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_crd.student_channels = 32
distiller.distill_losses.loss_crd.teacher_channels = 128
distiller.distill_losses.loss_crd.num_data = 6000
distiller.distill_losses.loss_crd.num_negatives = 1024
model = dict(distiller=distiller)
