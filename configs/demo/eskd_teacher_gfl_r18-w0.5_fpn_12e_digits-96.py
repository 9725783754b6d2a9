# The teacher with the checkpoints of all epochs.
_base_ = './gfl_r18-w0.5_fpn_12e_digits-96.py'
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
