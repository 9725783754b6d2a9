# The two-stage teacher on blood cells: a ResNet-18 of half the usual width.
_base_ = [
    '../_base_/models/faster-rcnn_r18_fpn_small.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
