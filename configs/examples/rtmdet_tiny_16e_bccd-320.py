# mmdet's RTMDet-tiny on blood cells, from random weights.
_base_ = [
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py').model
model.backbone.init_cfg = None
model.bbox_head.num_classes = 3
# As its teachers have them: student and teacher see the same images.
model.data_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
