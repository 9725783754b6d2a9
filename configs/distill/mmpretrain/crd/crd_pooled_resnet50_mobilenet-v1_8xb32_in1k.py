# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet50_mobilenet-v1_8xb32_in1k.py',
    '../../../_base_/distillers/crd_pooled.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_crd.student_channels = 1024
distiller.distill_losses.loss_crd.teacher_channels = 2048
distiller.distill_losses.loss_crd.num_data = 1281167
model = dict(distiller=distiller)
