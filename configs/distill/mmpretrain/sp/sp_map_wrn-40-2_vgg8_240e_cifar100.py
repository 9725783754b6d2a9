# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_vgg8_240e_cifar100.py',
    '../../../_base_/distillers/sp_map.py',
]
distiller = _base_.distiller
distiller.student_recorders.maps.source = 'backbone.layer4'
model = dict(distiller=distiller)
