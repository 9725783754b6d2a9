# CWD on the five maps of an FPN, with mmrazor's own loss.
_base_ = './cwd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_cwd=dict(
            _delete_=True,
            type='kdvit_mm.LevelWise',
            num_levels=5,
            loss=dict(
                type='mmrazor.ChannelWiseDivergence', tau=1,
                loss_weight=10))))
