# MGD on an FPN of 48 channels; weight as said in fgd_fpn_small.py.
_base_ = './mgd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_mgd=dict(
            connector=dict(student_channels=48, teacher_channels=48),
            loss=dict(alpha_mgd=4e-6))))
