# Caltech-101 without its background class as a folder per class, CC BY 4.0:
# {train,test}/CLASS/*.jpg.
_base_ = './cifar10_classification.py'
data_root = 'data/caltech101/'
# Models have their own.
data_preprocessor = None

# Nothing but the flip is random: an image has two views, whose records of a
# teacher can be kept.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=(128, 128)),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=(128, 128)),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
