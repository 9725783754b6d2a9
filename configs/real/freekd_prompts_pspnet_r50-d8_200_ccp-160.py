# FreeKD's first stage: tokens learned on the teacher, whose weights stay.
_base_ = './pspnet_r50-d8_4k_ccp-160.py'
train_cfg = dict(max_iters=200, val_interval=200)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained', checkpoint='stage://pspnet_r50-d8_4k_ccp-160')),
    source='backbone.layer4',
    channels=[2048],
    num_tokens=2)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(
        _delete_=True, custom_keys=dict(architecture=dict(lr_mult=0.0))))
param_scheduler = [_base_.param_scheduler[0]]
