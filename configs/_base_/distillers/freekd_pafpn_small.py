# FreeKD on the maps that cwd_pafpn_small.py compares.
_base_ = './freekd_fpn_small.py'
distiller = dict(
    connectors=dict(
        review=dict(
            in_channels=[32] * 3, out_channels=[64] * 3, mid_channels=32)),
    distill_losses=dict(loss_freekd=dict(channels=[64] * 3)))
