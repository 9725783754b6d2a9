# The teacher with the checkpoints of all epochs.
_base_ = './resnet18-w0.25_10e_digits-32.py'
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
