# PKD on the maps P2 to P5 of an FPN, with the weight for two-stage teachers.
_base_ = './pkd_fpn.py'
distiller = dict(
    distill_losses=dict(loss_pkd=dict(loss=dict(loss_weight=6))))
