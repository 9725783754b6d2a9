# mmseg's SegFormer-b0 on CamVid, from random weights.
_base_ = [
    '../_base_/datasets/camvid_segmentation.py',
    '../_base_/schedules/adamw_1k.py',
    '../_base_/runtime/seg_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py').model
model.backbone.init_cfg = None
model.data_preprocessor.update(
    size=_base_.crop_size, seg_pad_val=_base_.ignore_index)
model.decode_head.update(num_classes=11, ignore_index=_base_.ignore_index)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
