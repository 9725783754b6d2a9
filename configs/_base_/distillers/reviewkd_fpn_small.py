# ReviewKD on an FPN of 48 channels; weight as said in fgd_fpn_small.py.
_base_ = './reviewkd_fpn.py'
distiller = dict(
    connectors=dict(
        review=dict(
            in_channels=[48] * 5, out_channels=[48] * 5, mid_channels=48)),
    distill_losses=dict(loss_reviewkd=dict(loss_weight=0.012)))
