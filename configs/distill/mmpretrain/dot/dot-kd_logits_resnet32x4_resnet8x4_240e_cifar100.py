# KD with the two momenta of DOT, with the official values for CIFAR-100.
_base_ = '../kd/kd_logits_resnet32x4_resnet8x4_240e_cifar100.py'
optim_wrapper = dict(
    type='kdvit_mm.DOTOptimWrapper',
    optimizer=dict(type='kdvit_mm.DOT', delta=0.075))
