# MGD on the maps P2 to P5 of a two-stage detector's FPN, with the official
# values.
_base_ = './mgd_fpn.py'
distiller = dict(
    distill_losses=dict(
        loss_mgd=dict(
            levels=[0, 1, 2, 3],
            connector=dict(lambda_mgd=0.45),
            loss=dict(alpha_mgd=5e-7))))
