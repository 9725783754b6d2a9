# FGD on the maps P2 to P5 of a two-stage detector's FPN, with the official
# values.
_base_ = './fgd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_fgd=dict(
            levels=[0, 1, 2, 3],
            loss=dict(
                alpha_fgd=5e-5,
                beta_fgd=2.5e-5,
                gamma_fgd=5e-5,
                lambda_fgd=5e-7))))
