# LSKD around Hinton's KD, with the official values for CIFAR-100; ce_weight is
# that of the task's own loss.
_base_ = './kd_logits.py'
distiller = dict(
    distill_losses=dict(
        loss_kd=dict(
            _delete_=True,
            type='kdvit_mm.LogitStandardise',
            loss=dict(type='KDLoss', tau=2, loss_weight=9))))
