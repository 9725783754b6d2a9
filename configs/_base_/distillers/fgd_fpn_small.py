# FGD on an FPN of 48 channels. The weights of this and the other small configs
# are for a student of an eighth of the width and a short schedule. They were
# chosen on the blood cells with a seed of its own, see docs/benchmark.md.
_base_ = './fgd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_fgd=dict(
            loss=dict(
                channels=48,
                alpha_fgd=1.7e-6,
                beta_fgd=8.5e-7,
                gamma_fgd=3.4e-6,
                lambda_fgd=1.8e-7))))
