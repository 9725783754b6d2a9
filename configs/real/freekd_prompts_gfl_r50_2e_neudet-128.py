# FreeKD's first stage: tokens learned on the teacher, whose weights stay.
_base_ = './gfl_r50_fpn_24e_neudet-128.py'
train_cfg = dict(max_epochs=2, val_interval=2)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://gfl_r50_fpn_24e_neudet-128')),
    channels=[48] * 5,
    num_tokens=2)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(
        _delete_=True, custom_keys=dict(architecture=dict(lr_mult=0.0))))
param_scheduler = [_base_.param_scheduler[0]]
