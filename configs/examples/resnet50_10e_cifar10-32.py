# mmpretrain's ResNet-50 for CIFAR-10, from random weights.
_base_ = [
    '../_base_/datasets/cifar10_classification.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtime/cls_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmpretrain::resnet/resnet50_8xb16_cifar10.py').model
optim_wrapper = dict(optimizer=dict(lr=1e-3))
