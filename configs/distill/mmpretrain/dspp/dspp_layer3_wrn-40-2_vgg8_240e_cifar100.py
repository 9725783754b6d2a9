# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/wrn-40-2_vgg8_240e_cifar100.py',
    '../../../_base_/distillers/dspp_layer3.py',
]
distiller = _base_.distiller
distiller.connectors.regressor.in_channel = 512
distiller.connectors.regressor.out_channel = 128
distiller.connectors.regressor.conv_cfg = dict(type='deconv')
distiller.connectors.regressor.kernel_size = 4
distiller.connectors.regressor.stride = 2
distiller.connectors.regressor.padding = 1
model = dict(distiller=distiller)
