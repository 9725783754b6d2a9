# FGD on an FPN of 48 channels. As of all small configs, the weights make the
# first step's gradient at the student about 20 times the task loss's, by
# tools/analysis/doctor.py; they are not tuned on the metric.
_base_ = './fgd_fpn.py'
distiller = dict(
    distill_losses={
        f'loss_fgd_{level}': dict(
            channels=48,
            alpha_fgd=6.6e-5,
            beta_fgd=3.3e-5,
            gamma_fgd=1.3e-4,
            lambda_fgd=7e-6)
        for level in range(5)
    })
