# As mutual_gfl.py, with the weight of the small pairs.
_base_ = './mutual_gfl.py'
distiller = dict(
    distill_losses=dict(
        loss_student=dict(loss_weight=2), loss_peer=dict(loss_weight=2)))
