# The second of FitNets' two stages: KD whose weight falls from 4 to 1 in 240
# epochs. KDLoss has the factor tau ** 2, which the paper has not.
_base_ = './kd_logits.py'
ce_weight = 1
distiller = dict(distill_losses=dict(loss_kd=dict(tau=3, loss_weight=4 / 9)))
schedules = [
    dict(loss='loss_kd', type='linear', end_factor=0.25, begin=0, end=240)
]
