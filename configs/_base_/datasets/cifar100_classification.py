# CIFAR-100 as mdistiller has it; downloaded at the first start.
dataset_type = 'mmpretrain.CIFAR100'
data_root = 'data/cifar100/'

weak = [
    dict(type='mmpretrain.RandomCrop', crop_size=32, padding=4),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
]
strong = [
    *weak,
    dict(
        type='mmpretrain.RandAugment',
        policies='timm_increasing',
        num_policies=2,
        magnitude_level=10,
        magnitude_std='inf'),
]
train_pipeline = [*weak, dict(type='mmpretrain.PackInputs')]
# For methods that compare views.
two_view_pipeline = [
    dict(
        type='mmpretrain.MultiView',
        num_views=[1, 1],
        transforms=[weak, strong]),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [dict(type='mmpretrain.PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, ))
test_evaluator = val_evaluator
