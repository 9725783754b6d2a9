# FGD on the maps that cwd_pafpn_small.py compares.
_base_ = './fgd_fpn_small.py'
distiller = dict(
    distill_losses=dict(
        loss_fgd=dict(
            num_levels=3,
            connector=dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                act_cfg=None),
            loss=dict(channels=64))))
