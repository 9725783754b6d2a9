# FitNets' first stage: the hint alone.
_base_ = [
    '../../../_base_/pairs/resnet32x4_resnet8x4_240e_cifar100.py',
    '../../../_base_/distillers/fitnets_hint.py',
]
model = dict(
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=_base_.distiller)
train_cfg = dict(max_epochs=30)
# What lies behind the guided layer gets no gradient.
find_unused_parameters = True
