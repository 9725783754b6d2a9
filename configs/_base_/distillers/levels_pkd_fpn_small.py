# PKD, which gains most on the digit scenes; weight as said in fgd_fpn_small.py.
_base_ = './levels_cwd_fpn_small.py'
distiller = dict(
    distill_losses=dict(
        loss_levels=dict(
            loss=dict(
                _delete_=True, type='kdvit_mm.PKDLoss', loss_weight=1))))
