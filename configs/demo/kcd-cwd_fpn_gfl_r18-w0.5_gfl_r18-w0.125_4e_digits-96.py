# CWD on a training set that shrinks to 70 % within three of four epochs.
_base_ = './cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py'
train_dataloader = dict(
    sampler=dict(type='kdvit_mm.CondensedSampler'),
    dataset=dict(pipeline=[
        *_base_.train_pipeline[:2],
        dict(type='kdvit_mm.MixDropped'),
        *_base_.train_pipeline[2:-1],
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=('sample_idx', 'img_id', 'img_path', 'ori_shape',
                       'img_shape', 'scale_factor')),
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
        value='loss',
        interval=1,
        keep_ratio=0.7,
        num_steps=3),
]
