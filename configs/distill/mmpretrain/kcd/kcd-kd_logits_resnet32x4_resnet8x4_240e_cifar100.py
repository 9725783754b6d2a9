# KD on a training set that shrinks, with the official values for CIFAR-100.
_base_ = '../kd/kd_logits_resnet32x4_resnet8x4_240e_cifar100.py'
train_dataloader = dict(
    sampler=dict(type='kdvit_mm.CondensedSampler'),
    dataset=dict(
        pipeline=[dict(type='kdvit_mm.MixDropped'), *_base_.train_pipeline]))
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='kdvit_mm.KnowledgeCondensationHook',
        value='entropy',
        interval=40,
        keep_ratio=0.7,
        num_steps=6),
]
