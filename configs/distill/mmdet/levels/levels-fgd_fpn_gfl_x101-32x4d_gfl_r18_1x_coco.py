_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/levels_fgd_fpn.py',
    '../../../_base_/runtime/level_selection.py',
]
model = dict(distiller=_base_.distiller)
custom_hooks = [*_base_.custom_hooks, _base_.level_selection]
