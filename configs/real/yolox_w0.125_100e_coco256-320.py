# The YOLOX student on a few images of COCO: half of nano's width.
_base_ = [
    '../_base_/models/yolox_w0.125_coco.py',
    '../_base_/datasets/coco256_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/runtime/det_runtime.py',
]
