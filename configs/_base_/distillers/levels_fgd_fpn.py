# FGD on the levels of a five-map FPN that a policy chooses for each image.
_base_ = './levels_cwd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_levels=dict(
            loss=dict(
                _delete_=True,
                type='kdvit_mm.FGDLoss',
                channels=256,
                tau=0.5,
                alpha_fgd=1e-3,
                beta_fgd=5e-4,
                gamma_fgd=5e-4,
                lambda_fgd=5e-6))))
