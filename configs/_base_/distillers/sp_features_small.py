# SP on batches of 8.
_base_ = './sp_features.py'
distiller = dict(distill_losses=dict(loss_sp=dict(loss_weight=400)))
