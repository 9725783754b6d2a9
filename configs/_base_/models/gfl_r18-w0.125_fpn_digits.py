# P2 to P6: no object of a scene of 96 px belongs to P7.
_base_ = './gfl_r18-w0.125_fpn_small.py'
model = dict(
    neck=dict(start_level=0),
    bbox_head=dict(
        anchor_generator=dict(
            octave_base_scale=2, strides=[4, 8, 16, 32, 64])))
