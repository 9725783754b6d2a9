# PKD on the maps P2 to P5 of an FPN, with the weight for two-stage teachers.
_base_ = './pkd_fpn.py'
distiller = dict(
    distill_losses={
        f'loss_pkd_{level}': dict(loss_weight=6)
        for level in range(4)
    })
