# ReviewKD on the maps that cwd_pafpn_small.py compares.
_base_ = './reviewkd_fpn_small.py'
distiller = dict(
    connectors=dict(
        review=dict(
            in_channels=[32] * 3, out_channels=[64] * 3, mid_channels=32)))
