# Anchors as in gfl_r18_fpn_small.py.
_base_ = './ld_gfl.py'
distiller = dict(
    distill_losses=dict(
        loss_ld=dict(anchor_generator=dict(octave_base_scale=2))))
