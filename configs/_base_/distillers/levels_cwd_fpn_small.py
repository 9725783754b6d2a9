# Weight as said in fgd_fpn_small.py; a learning rate for a short schedule.
_base_ = './levels_cwd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_levels=dict(
            selector=dict(lr=2e-3), loss=dict(loss_weight=0.4))))
