# FreeKD on an FPN of 48 channels; weights as said in fgd_fpn_small.py.
_base_ = './freekd_fpn.py'
distiller = dict(
    connectors=dict(
        review=dict(
            in_channels=[48] * 5, out_channels=[48] * 5, mid_channels=48)),
    distill_losses=dict(
        loss_freekd=dict(
            channels=[48] * 5, num_tokens=2, loss_weight=0.01),
        loss_l2=dict(loss_weight=0.05)))
