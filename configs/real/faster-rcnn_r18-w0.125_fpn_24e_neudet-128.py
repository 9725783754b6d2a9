# The student on steel: Faster R-CNN on a ResNet-18 of an eighth of the width.
_base_ = [
    '../_base_/models/faster-rcnn_r18-w0.125_fpn_neudet.py',
    '../_base_/datasets/neudet_detection.py',
    '../_base_/schedules/adamw_24e.py',
    '../_base_/runtime/det_runtime.py',
]
