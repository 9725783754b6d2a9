# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet32x4_shufflenet-v1_240e_cifar100.py',
    '../../../_base_/distillers/ofd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1.3.preact'),
    dict(source='backbone.layer2.7.preact'),
    dict(source='backbone.layer3.3.preact'),
]
distiller.connectors.stage1.in_channel = 240
distiller.connectors.stage2.in_channel = 480
distiller.connectors.stage3.in_channel = 960
model = dict(distiller=distiller)
