# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_mobilenet-v2_240e_cifar100.py',
    '../../../_base_/distillers/reviewkd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
    dict(source='neck.gap'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer2.0.bn1'),
    dict(source='backbone.layer3.0.bn1'),
    dict(source='backbone.layer4.0'),
    dict(source='neck.gap'),
]
distiller.connectors.review.in_channels = [16, 48, 160, 1280]
distiller.connectors.review.out_channels = [32, 64, 128, 128]
distiller.connectors.review.mid_channels = 512
distiller.connectors.review.out_sizes = [32, 16, 8, 1]
model = dict(distiller=distiller)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='kdvit_mm.DistillScheduleHook', schedules=_base_.schedules),
]
