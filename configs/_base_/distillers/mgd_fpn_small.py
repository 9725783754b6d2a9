# MGD on an FPN of 48 channels; weight as said in fgd_fpn_small.py.
_base_ = './mgd_fpn.py'
distiller = dict(
    connectors={
        f'generator_{level}': dict(student_channels=48, teacher_channels=48)
        for level in range(5)
    },
    distill_losses={
        f'loss_mgd_{level}': dict(alpha_mgd=4e-6)
        for level in range(5)
    })
