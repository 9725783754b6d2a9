# KD; weight as said in fgd_fpn_small.py.
_base_ = './kd_gfl.py'
distiller = dict(distill_losses=dict(loss_kd=dict(loss_weight=1)))
