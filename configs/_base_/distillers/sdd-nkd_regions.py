# SDD around NKD, with the official values for CIFAR-100: the weight grows
# over 20 epochs.
_base_ = './sdd-kd_regions.py'
ce_weight = 1
schedules = [
    dict(loss='loss_sdd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    distill_losses=dict(
        loss_sdd=dict(
            loss=dict(_delete_=True, type='NKDLoss', gamma=8, tau=4))))
