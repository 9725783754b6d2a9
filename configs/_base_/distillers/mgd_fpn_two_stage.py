# MGD on the maps P2 to P5 of a two-stage detector's FPN, with the official
# values.
_base_ = './mgd_fpn.py'
distiller = dict(
    connectors=dict(
        _delete_=True,
        **{
            f'generator_{level}': dict(
                type='kdvit_mm.MGDGenerator',
                student_channels=256,
                teacher_channels=256,
                lambda_mgd=0.45)
            for level in range(4)
        }),
    distill_losses=dict(
        _delete_=True,
        **{
            f'loss_mgd_{level}': dict(type='kdvit_mm.MGDLoss', alpha_mgd=5e-7)
            for level in range(4)
        }),
    loss_forward_mappings=dict(
        _delete_=True,
        **{
            f'loss_mgd_{level}':
            _base_.distiller.loss_forward_mappings[f'loss_mgd_{level}']
            for level in range(4)
        }))
