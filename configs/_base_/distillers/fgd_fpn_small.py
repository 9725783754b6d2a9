# FGD on an FPN of 48 channels. The weights of this and other small configs
# make the gradient at a student that was trained alone about ten times the task
# loss's, the mean of digits and blood cells. They are not tuned on the metric,
# and where the official weights do the same (ReviewKD, LD, PKD, FreeKD) those
# are kept.
_base_ = './fgd_fpn.py'
distiller = dict(
    distill_losses={
        f'loss_fgd_{level}': dict(
            channels=48,
            alpha_fgd=1.7e-5,
            beta_fgd=8.5e-6,
            gamma_fgd=3.4e-5,
            lambda_fgd=1.8e-6)
        for level in range(5)
    })
