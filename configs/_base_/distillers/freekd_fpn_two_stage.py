# FreeKD on the five maps of a two-stage detector's FPN. No config of the paper
# for one with this loss is public; the weight of the squared error is that of
# the released config whose teacher is an X101 Cascade Mask R-CNN.
_base_ = './freekd_fpn.py'
distiller = dict(distill_losses=dict(loss_l2=dict(loss_weight=2)))
