# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/sp_map.py',
]
distiller = _base_.distiller
distiller.student_recorders.maps.source = 'backbone.layer4'
distiller.teacher_recorders.maps.source = 'backbone.layer4'
model = dict(distiller=distiller)
