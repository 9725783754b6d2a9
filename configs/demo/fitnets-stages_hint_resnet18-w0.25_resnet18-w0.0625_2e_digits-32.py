# FitNets' first stage: the hint alone.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/fitnets_hint.py',
]
distiller = _base_.distiller
distiller.connectors.regressor.in_channel = 8
distiller.connectors.regressor.out_channel = 32
model = dict(
    calculate_student_loss=_base_.calculate_student_loss, distiller=distiller)
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [_base_.param_scheduler[0]]
# What lies behind the guided layer gets no gradient.
find_unused_parameters = True
