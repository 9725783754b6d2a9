# SDD around LSKD around DKD. The released fusion sums over all regions; with
# their mean the values of both methods alone apply.
_base_ = './sdd-kd_regions.py'
ce_weight = 1
schedules = [
    dict(loss='loss_sdd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    distill_losses=dict(
        loss_sdd=dict(
            loss=dict(
                _delete_=True,
                type='LogitStandardise',
                loss=dict(type='DKDLoss', alpha=9, beta=72, tau=2)))))
