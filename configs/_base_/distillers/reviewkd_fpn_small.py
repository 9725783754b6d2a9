# ReviewKD on an FPN of 48 channels.
_base_ = './reviewkd_fpn.py'
distiller = dict(
    connectors=dict(
        review=dict(
            in_channels=[48] * 5, out_channels=[48] * 5, mid_channels=48)))
