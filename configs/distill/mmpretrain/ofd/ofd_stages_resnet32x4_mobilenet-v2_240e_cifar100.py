# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/ofd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
]
distiller.connectors.stage1.in_channel = 16
distiller.connectors.stage2.in_channel = 48
distiller.connectors.stage3.in_channel = 160
model = dict(distiller=distiller)
