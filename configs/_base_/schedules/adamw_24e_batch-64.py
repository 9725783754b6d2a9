# As adamw_24e.py, for a batch of 64.
_base_ = './adamw_24e.py'
auto_scale_lr = dict(base_batch_size=64)
