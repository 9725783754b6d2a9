# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/reviewkd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1'),
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
    dict(source='neck.gap'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1.2.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer2.3.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer3.5.relu', inputs=True, record_idx=2),
    dict(source='backbone.layer4.2.relu', inputs=True, record_idx=2),
    dict(source='neck.gap'),
]
distiller.connectors.review.in_channels = [10, 20, 40, 80, 80]
distiller.connectors.review.out_channels = [256, 512, 1024, 2048, 2048]
distiller.connectors.review.mid_channels = 80
model = dict(distiller=distiller)
