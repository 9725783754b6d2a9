# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet50_mobilenet-v1_8xb32_in1k.py',
    '../../../_base_/distillers/reviewkd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1.1.pointwise_conv.bn'),
    dict(source='backbone.layer2.1.pointwise_conv.bn'),
    dict(source='backbone.layer3.5.pointwise_conv.bn'),
    dict(source='backbone.layer4.1.pointwise_conv.bn'),
    dict(source='neck.gap'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1.2.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer2.3.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer3.5.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer4.2.relu', inputs=True, record_idx=2),
    dict(source='neck.gap'),
]
distiller.connectors.review.in_channels = [128, 256, 512, 1024, 1024]
distiller.connectors.review.out_channels = [256, 512, 1024, 2048, 2048]
distiller.distill_losses.loss_reviewkd.loss_weight = 8
model = dict(distiller=distiller)
