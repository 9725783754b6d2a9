# CWD on a training set that shrinks to 70 % within ten of twelve epochs.
_base_ = '../cwd/cwd_fpn_gfl_x101-32x4d_gfl_r18_1x_coco.py'
train_dataloader = dict(
    sampler=dict(type='kdvit_mm.CondensedSampler'),
    dataset=dict(pipeline=[
        *_base_.train_pipeline[:2],
        dict(type='kdvit_mm.MixDropped'),
        *_base_.train_pipeline[2:-1],
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=('sample_idx', 'img_id', 'img_path', 'ori_shape',
                       'img_shape', 'scale_factor', 'flip',
                       'flip_direction')),
    ]))
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='kdvit_mm.KnowledgeCondensationHook',
        value='loss',
        interval=2,
        keep_ratio=0.7,
        num_steps=5),
]
