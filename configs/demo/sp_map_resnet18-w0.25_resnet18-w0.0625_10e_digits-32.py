# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/sp_map.py',
]
distiller = _base_.distiller
distiller.student_recorders.maps.source = 'backbone.layer4'
distiller.teacher_recorders.maps.source = 'backbone.layer4'
model = dict(distiller=distiller)
