# The YOLOX student on steel: half of nano's width.
_base_ = [
    '../_base_/models/yolox_w0.125_neudet.py',
    '../_base_/datasets/neudet_detection.py',
    '../_base_/schedules/adamw_24e.py',
    '../_base_/runtime/det_runtime.py',
]
