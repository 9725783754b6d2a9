# As adamw_10e.py, for a few images.
_base_ = './adamw_10e.py'
max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, val_interval=20)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], T_max=max_epochs),
]
