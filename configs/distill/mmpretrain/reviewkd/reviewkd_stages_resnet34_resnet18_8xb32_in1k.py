# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet34_resnet18_8xb32_in1k.py',
    '../../../_base_/distillers/reviewkd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
    dict(source='neck.gap'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1.2.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.3.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.5.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.2.relu', inputs=True, record_idx=1),
    dict(source='neck.gap'),
]
distiller.connectors.review.in_channels = [64, 128, 256, 512, 512]
distiller.connectors.review.out_channels = [64, 128, 256, 512, 512]
distiller.connectors.review.mid_channels = 512
distiller.distill_losses.loss_reviewkd.loss_weight = 1
model = dict(distiller=distiller)
