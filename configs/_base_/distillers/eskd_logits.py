# KD that ends at half of 240 epochs, after which the task's loss is alone, as
# in ESKD.
_base_ = './kd_logits.py'
ce_weight = 1
schedules = [dict(loss='loss_kd', type='stop', begin=120)]
