# As annealing_logits.py, with a stair each of 10 epochs.
_base_ = './annealing_logits.py'
schedules = [
    dict(
        loss='loss_annealing',
        key='tau',
        type='constant',
        factor=tau,
        begin=tau - 1,
        end=tau) for tau in range(2, 11)
]
