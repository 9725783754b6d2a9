# DeFeat on an FPN of 48 channels; weights as said in fgd_fpn_small.py.
_base_ = './defeat_fpn.py'
distiller = dict(
    connectors={
        f'adapter_{level}': dict(in_channel=48, out_channel=48)
        for level in range(5)
    },
    distill_losses={
        f'loss_defeat_{level}': dict(fg_weight=0.03, bg_weight=0.12)
        for level in range(5)
    })
