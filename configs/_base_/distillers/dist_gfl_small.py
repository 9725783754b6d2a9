# DIST; weight as said in fgd_fpn_small.py.
_base_ = './dist_gfl.py'
distiller = dict(distill_losses=dict(loss_dist=dict(loss_weight=0.065)))
