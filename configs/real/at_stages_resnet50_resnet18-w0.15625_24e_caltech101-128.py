# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/at_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1'),
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1'),
    dict(source='backbone.layer2'),
    dict(source='backbone.layer3'),
    dict(source='backbone.layer4'),
]
model = dict(distiller=distiller)
