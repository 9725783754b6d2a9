# As multi_gfl.py, with the weight of the small pairs.
_base_ = './multi_gfl.py'
distiller = dict(
    distill_losses=dict(
        loss_wide=dict(loss_weight=2), loss_narrow=dict(loss_weight=2)))
