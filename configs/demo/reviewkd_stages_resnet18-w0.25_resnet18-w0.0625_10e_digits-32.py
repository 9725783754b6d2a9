# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
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
    dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
    dict(source='neck.gap'),
]
distiller.connectors.review.in_channels = [4, 8, 16, 32, 32]
distiller.connectors.review.out_channels = [16, 32, 64, 128, 128]
distiller.connectors.review.mid_channels = 32
model = dict(distiller=distiller)
