# The teacher with the checkpoints of all epochs.
_base_ = './gfl_r18-w0.5_fpn_10e_digits-224.py'
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
