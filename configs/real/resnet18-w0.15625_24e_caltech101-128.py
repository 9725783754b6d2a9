# The student on photographs.
_base_ = [
    '../_base_/models/resnet18-w0.15625_caltech101.py',
    '../_base_/datasets/caltech101_classification.py',
    '../_base_/schedules/adamw_24e_batch-64.py',
    '../_base_/runtime/cls_runtime.py',
]
