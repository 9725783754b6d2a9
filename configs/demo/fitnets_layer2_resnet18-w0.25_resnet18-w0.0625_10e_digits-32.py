# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/fitnets_layer2.py',
]
distiller = _base_.distiller
distiller.connectors.regressor.in_channel = 8
distiller.connectors.regressor.out_channel = 32
model = dict(distiller=distiller)
