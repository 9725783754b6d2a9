# SDD around LSKD around Hinton's KD, with the values of the released fusion.
_base_ = './sdd-kd_regions.py'
ce_weight = 1
distiller = dict(
    distill_losses=dict(
        loss_sdd=dict(
            loss=dict(
                _delete_=True,
                type='LogitStandardise',
                loss=dict(type='KDLoss', tau=2, loss_weight=9)))))
