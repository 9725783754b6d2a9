# MGD on the maps that cwd_pafpn_small.py compares.
_base_ = './mgd_fpn_small.py'
distiller = dict(
    distill_losses=dict(
        loss_mgd=dict(
            num_levels=3,
            connector=dict(student_channels=32, teacher_channels=64))))
