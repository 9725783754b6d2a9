# Anchors as in gfl_r18_fpn_small.py; weights as said in fgd_fpn_small.py.
_base_ = './ld_gfl.py'
distiller = dict(
    distill_losses=dict(
        loss_ld=dict(
            anchor_generator=dict(octave_base_scale=2),
            ld_weight=0.0025,
            vlr_weight=0.0025,
            kd_weight=0.1)))
