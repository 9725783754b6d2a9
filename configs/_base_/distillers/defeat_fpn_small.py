# DeFeat on an FPN of 48 channels; weights as said in fgd_fpn_small.py.
_base_ = './defeat_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_defeat=dict(
            connector=dict(in_channel=48, out_channel=48),
            loss=dict(fg_weight=0.03, bg_weight=0.12))))
