# Hinton's KD with mmrazor's values for ImageNet.
_base_ = './kd_logits.py'
distiller = dict(distill_losses=dict(loss_kd=dict(tau=1, loss_weight=3)))
