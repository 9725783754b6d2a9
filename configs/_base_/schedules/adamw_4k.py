# As adamw_1k.py, for longer.
_base_ = './adamw_1k.py'
max_iters = 4000
train_cfg = dict(max_iters=max_iters, val_interval=1000)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], T_max=max_iters),
]
