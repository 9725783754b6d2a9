# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet50_mobilenet-v1_8xb32_in1k.py',
    '../../../_base_/distillers/lskd-kd_logits.py',
]
model = dict(distiller=_base_.distiller)
