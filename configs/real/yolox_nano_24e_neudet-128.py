# The YOLOX teacher on steel: YOLOX-nano from its COCO weights.
_base_ = [
    '../_base_/models/yolox_nano_neudet.py',
    '../_base_/datasets/neudet_detection.py',
    '../_base_/schedules/adamw_24e_pretrained.py',
    '../_base_/runtime/det_runtime.py',
]
load_from = 'data/weights/yolox_nano_coco_mmdet.pth'
