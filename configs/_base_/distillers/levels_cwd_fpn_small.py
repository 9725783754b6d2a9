# Weight as said in fgd_fpn_small.py.
_base_ = './levels_cwd_fpn.py'
distiller = dict(
    distill_losses=dict(loss_levels=dict(level_loss=dict(loss_weight=0.4))))
