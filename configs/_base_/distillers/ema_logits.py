# KD from a moving average of the student, which begins with nothing to teach:
# the weight grows over the first 20 epochs.
_base_ = './kd_logits.py'
ce_weight = 1
distiller = dict(distill_losses=dict(loss_kd=dict(tau=1, loss_weight=1)))
schedules = [
    dict(loss='loss_kd', type='linear', start_factor=0, begin=0, end=20)
]
