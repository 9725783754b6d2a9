# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_24e_cifar10-32.py',
    '../_base_/distillers/normkd_logits.py',
]
model = dict(distiller=_base_.distiller)
