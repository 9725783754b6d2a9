# FreeKD's first stage: tokens learned on the teacher, whose weights stay.
_base_ = './yolox_nano_24e_neudet-128.py'
load_from = None
train_cfg = dict(max_epochs=2, val_interval=2)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://yolox_nano_24e_neudet-128')),
    channels=[64] * 3,
    num_tokens=2)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(
        _delete_=True, custom_keys=dict(architecture=dict(lr_mult=0.0))))
param_scheduler = [_base_.param_scheduler[0]]
