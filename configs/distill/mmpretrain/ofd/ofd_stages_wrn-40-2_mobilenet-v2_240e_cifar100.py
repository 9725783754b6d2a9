# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/ofd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer2.0.bn1'),
    dict(source='backbone.layer3.0.bn1'),
    dict(source='backbone.layer4.0'),
]
distiller.teacher_recorders.norm1.source = 'backbone.layer2.0.bn1'
distiller.connectors.stage1.in_channel = 16
distiller.connectors.stage1.out_channel = 32
distiller.teacher_recorders.norm2.source = 'backbone.layer3.0.bn1'
distiller.connectors.stage2.in_channel = 48
distiller.connectors.stage2.out_channel = 64
distiller.teacher_recorders.norm3.source = 'backbone.layer4.0'
distiller.connectors.stage3.in_channel = 160
distiller.connectors.stage3.out_channel = 128
model = dict(distiller=distiller)
