# PKD; weight as said in fgd_fpn_small.py.
_base_ = './pkd_fpn.py'
distiller = dict(
    distill_losses={
        f'loss_pkd_{level}': dict(loss_weight=1)
        for level in range(4)
    })
