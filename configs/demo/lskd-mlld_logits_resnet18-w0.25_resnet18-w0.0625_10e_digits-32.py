# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/lskd-mlld_logits.py',
]
model = dict(
    architecture=dict(data_preprocessor=dict(type=_base_.preprocessor)),
    distiller=_base_.distiller,
)
train_dataloader = dict(dataset=dict(pipeline=_base_.two_view_pipeline))
