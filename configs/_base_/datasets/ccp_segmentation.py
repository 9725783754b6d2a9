# Clothing Co-Parsing (Apache-2.0): 807 + 197 photographs of up to 320 px and
# their masks of 11 classes, in data/ccp/images/{train,val}/*.jpg and
# data/ccp/labels/{train,val}/*.png.
_base_ = './camvid_segmentation.py'
data_root = 'data/ccp/'
image_scale = (160, 160)
ignore_index = 255
metainfo = dict(
    classes=('background', 'skin', 'hair', 'top', 'outer', 'dress',
             'trousers', 'skirt', 'shoes', 'bag', 'accessory'),
    palette=[[0, 0, 0], [244, 164, 96], [101, 67, 33], [220, 20, 60],
             [0, 130, 200], [145, 30, 180], [60, 180, 75], [245, 130, 48],
             [128, 128, 128], [170, 110, 40], [255, 225, 25]])

# Nothing but the flip is random: an image has two views, whose records of a
# teacher can be kept.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmseg.RandomFlip', prob=0.5),
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
    batch_size=8,
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ignore_index=ignore_index,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ignore_index=ignore_index,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(ignore_index=ignore_index)
test_evaluator = val_evaluator
