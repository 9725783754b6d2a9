# Crops of handwritten digits; made by tools/dataset_converters/digit_scenes.py
dataset_type = 'kdvit_mm.DigitClassification'
data_root = 'data/digit_scenes/'

# No flip: a mirrored digit is another sign.
weak = [
    dict(type='mmpretrain.RandomCrop', crop_size=32, padding=2),
    dict(
        type='mmpretrain.ColorJitter',
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        backend='cv2'),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    *weak,
    dict(type='mmpretrain.PackInputs'),
]
# For methods that compare views.
two_view_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.MultiView',
        num_views=[1, 1],
        transforms=[
            weak,
            [*weak, dict(type='mmpretrain.Solarize', thr=128, prob=0.5)],
        ]),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='cls/train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='cls/val',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, ))
test_evaluator = val_evaluator
