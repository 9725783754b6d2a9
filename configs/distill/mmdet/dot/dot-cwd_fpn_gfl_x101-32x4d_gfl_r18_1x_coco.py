# CWD with the two momenta of DOT; delta is that of ImageNet.
_base_ = '../cwd/cwd_fpn_gfl_x101-32x4d_gfl_r18_1x_coco.py'
optim_wrapper = dict(
    type='kdvit_mm.DOTOptimWrapper',
    optimizer=dict(type='kdvit_mm.DOT', delta=0.09))
