_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/pkd_fpn_small.py',
]
# Ten times the weight for blood cells: this teacher is much better.
_base_.distiller.distill_losses.loss_pkd.loss.loss_weight = 10
model = dict(distiller=_base_.distiller)
