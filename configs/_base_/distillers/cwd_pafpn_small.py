# CWD on the three maps of a small YOLOX under YOLOX-nano; weight as said in
# fgd_fpn_small.py.
_base_ = './cwd_fpn_small.py'
distiller = dict(
    distill_losses=dict(
        loss_cwd=dict(
            _delete_=True,
            type='kdvit_mm.LevelWise',
            num_levels=3,
            connector=dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                act_cfg=None),
            loss=dict(type='kdvit_mm.CWDLoss', tau=1, loss_weight=0.4))))
