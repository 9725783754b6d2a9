# The first 128 images of COCO's train2017 and of val2017, of up to 320 px, in
# data/coco256/annotations/instances_{train,val}2017.json and
# data/coco256/images/{train,val}2017/.
_base_ = './bccd_detection.py'
data_root = 'data/coco256/'
image_scale = (320, 320)

# Nothing but the flip is random: an image has two views, whose records of a
# teacher can be kept.
pad = dict(
    type='mmdet.Pad', size=image_scale, pad_val=dict(img=(114, 114, 114)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    pad,
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=image_scale, keep_ratio=True),
    pad,
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor')),
]

train_dataloader = dict(
    dataset=dict(
        metainfo=dict(_delete_=True),
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='images/train2017/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        metainfo=dict(_delete_=True),
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='images/val2017/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
