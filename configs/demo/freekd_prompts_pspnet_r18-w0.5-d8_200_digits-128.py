# FreeKD's first stage: tokens learned on the teacher, whose weights stay.
_base_ = './pspnet_r18-w0.5-d8_1k_digits-128.py'
train_cfg = dict(max_iters=200, val_interval=200)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://pspnet_r18-w0.5-d8_1k_digits-128')),
    source='backbone.layer4',
    channels=[256],
    num_tokens=2)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(architecture=dict(lr_mult=0.0))))
param_scheduler = [_base_.param_scheduler[0]]
