# mmseg's DeepLabV3 with a ResNet-18 on CamVid, from random weights.
_base_ = [
    '../_base_/datasets/camvid_segmentation.py',
    '../_base_/schedules/adamw_1k.py',
    '../_base_/runtime/seg_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py').model
model.pretrained = None
model.data_preprocessor.update(
    size=_base_.crop_size, seg_pad_val=_base_.ignore_index)
for head in (model.decode_head, model.auxiliary_head):
    head.update(num_classes=11, ignore_index=_base_.ignore_index)
del head
optim_wrapper = dict(optimizer=dict(lr=5e-4))
