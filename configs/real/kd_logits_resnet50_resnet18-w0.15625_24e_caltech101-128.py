# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet50_resnet18-w0.15625_24e_caltech101-128.py',
    '../_base_/distillers/kd_logits.py',
]
model = dict(distiller=_base_.distiller)
