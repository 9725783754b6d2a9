_base_ = [
    '../../_base_/models/shufflenet-v1_cub200.py',
    '../../_base_/datasets/cub200_classification.py',
    '../../_base_/schedules/sgd_240e.py',
    '../../_base_/runtime/cls_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
