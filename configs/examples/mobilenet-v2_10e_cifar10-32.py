# mmpretrain's MobileNetV2 on CIFAR-10, from random weights.
_base_ = [
    '../_base_/datasets/cifar10_classification.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtime/cls_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py').model
model.head.num_classes = 10
