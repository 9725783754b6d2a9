# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/fitnets_layer2.py',
]
distiller = _base_.distiller
distiller.connectors.regressor.in_channel = 20
distiller.connectors.regressor.out_channel = 512
model = dict(distiller=distiller)
