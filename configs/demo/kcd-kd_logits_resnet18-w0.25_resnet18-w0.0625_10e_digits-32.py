# KD on a training set that shrinks to 70 % within eight of ten epochs.
_base_ = './kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py'
train_dataloader = dict(
    sampler=dict(type='kdvit_mm.CondensedSampler'),
    dataset=dict(pipeline=[
        *_base_.train_pipeline[:1],
        dict(type='kdvit_mm.MixDropped'),
        *_base_.train_pipeline[1:],
    ]))
# By epochs, which get shorter.
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], convert_to_iter_based=False),
]
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='kdvit_mm.KnowledgeCondensationHook',
        value='entropy',
        interval=2,
        keep_ratio=0.7,
        num_steps=4),
]
