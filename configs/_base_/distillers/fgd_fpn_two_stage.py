# FGD on the maps P2 to P5 of a two-stage detector's FPN, with the official
# values.
_base_ = './fgd_fpn.py'
distiller = dict(
    distill_losses=dict(
        _delete_=True,
        **{
            f'loss_fgd_{level}': dict(
                type='kdvit_mm.FGDLoss',
                channels=256,
                temp=0.5,
                alpha_fgd=5e-5,
                beta_fgd=2.5e-5,
                gamma_fgd=5e-5,
                lambda_fgd=5e-7)
            for level in range(4)
        }),
    loss_forward_mappings=dict(
        _delete_=True,
        **{
            f'loss_fgd_{level}':
            _base_.distiller.loss_forward_mappings[f'loss_fgd_{level}']
            for level in range(4)
        }))
