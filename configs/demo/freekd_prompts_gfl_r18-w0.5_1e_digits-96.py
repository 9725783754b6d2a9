# FreeKD's first stage: tokens learned on the teacher, whose weights stay.
_base_ = './gfl_r18-w0.5_fpn_12e_digits-96.py'
train_cfg = dict(max_epochs=1, val_interval=1)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='FreeKDPromptLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://gfl_r18-w0.5_fpn_12e_digits-96')),
    channels=[48] * 5,
    num_tokens=2)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(architecture=dict(lr_mult=0.0))))
param_scheduler = [_base_.param_scheduler[0]]
