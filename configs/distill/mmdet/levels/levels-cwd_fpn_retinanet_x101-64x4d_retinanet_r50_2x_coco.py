_base_ = [
    '../../../_base_/pairs/retinanet_x101-64x4d_retinanet_r50_2x_coco.py',
    '../../../_base_/distillers/levels_cwd_fpn.py',
    '../../../_base_/runtime/level_selection.py',
]
model = dict(distiller=_base_.distiller)
custom_hooks = [*_base_.custom_hooks, _base_.level_selection]
