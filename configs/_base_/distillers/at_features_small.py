# AT on maps of 256 positions: the mean over them is 32 times that of a crop of
# Cityscapes.
_base_ = './at_features.py'
distiller = dict(distill_losses=dict(loss_at=dict(loss_weight=300)))
