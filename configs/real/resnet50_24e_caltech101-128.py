# The teacher on photographs: a head on a ResNet-50 with ImageNet weights. The
# decay keeps it from knowing its training images by heart: then it would say
# little more than their labels.
_base_ = [
    '../_base_/models/resnet50_caltech101.py',
    '../_base_/datasets/caltech101_classification.py',
    '../_base_/schedules/adamw_24e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
optim_wrapper = dict(optimizer=dict(weight_decay=1.0))
