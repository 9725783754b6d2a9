# YOLOX-nano, whose COCO weights are the teacher on COCO.
_base_ = [
    '../_base_/models/yolox_nano_coco.py',
    '../_base_/datasets/coco256_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/runtime/det_runtime.py',
]
