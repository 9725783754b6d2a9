# FreeKD's first stage, tokens learned on the teacher, whose weights stay.
_base_ = [
    'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    '../../../_base_/runtime/plugin.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        cfg_path=  # noqa: E251
        'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        pretrained=True),
    source='backbone.layer4',
    channels=[2048],
    num_tokens=6)
train_cfg = dict(max_iters=2000, val_interval=2000)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=0.01, weight_decay=0.001),
    paramwise_cfg=dict(
        custom_keys=dict(architecture=dict(lr_mult=0, decay_mult=0))))
# To 0: any other end would be a learning rate for the teacher too.
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, T_max=2000, eta_min=0)
]
default_hooks = dict(checkpoint=dict(interval=2000))
