# CWD; weight as said in fgd_fpn_small.py.
_base_ = './cwd_fpn.py'
distiller = dict(distill_losses=dict(loss_cwd=dict(loss_weight=0.4)))
