# KD; the weight is said in the README of the method.
_base_ = './kd_gfl.py'
distiller = dict(distill_losses=dict(loss_kd=dict(loss_weight=2)))
