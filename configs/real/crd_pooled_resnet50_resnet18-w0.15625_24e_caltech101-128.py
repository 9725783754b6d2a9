# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/crd_pooled.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_crd.student_channels = 80
distiller.distill_losses.loss_crd.teacher_channels = 2048
distiller.distill_losses.loss_crd.num_data = 5784
distiller.distill_losses.loss_crd.num_negatives = 1024
model = dict(distiller=distiller)
