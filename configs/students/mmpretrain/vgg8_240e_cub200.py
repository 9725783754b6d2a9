_base_ = [
    '../../_base_/models/vgg8_cub200.py',
    '../../_base_/datasets/cub200_classification.py',
    '../../_base_/schedules/sgd_240e.py',
    '../../_base_/runtime/cls_runtime.py',
]
