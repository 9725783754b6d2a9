# PKD; weight as said in fgd_fpn_small.py.
_base_ = './pkd_fpn.py'
distiller = dict(
    distill_losses=dict(loss_pkd=dict(loss=dict(loss_weight=1))))
