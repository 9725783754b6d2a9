# DKD; weights as said in fgd_fpn_small.py.
_base_ = './dkd_roi.py'
distiller = dict(
    distill_losses=dict(loss_dkd=dict(loss=dict(alpha=0.1, beta=0.025))))
