_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/levels_pkd_fpn_small.py',
    '../_base_/runtime/level_selection_small.py',
]
model = dict(distiller=_base_.distiller)
# Images that are not trained on, with ground truth, to measure regret.
probe_dataloader = dict(
    _base_.train_dataloader,
    dataset=dict(
        _base_.train_dataloader.dataset,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/')))
custom_hooks = [
    *_base_.custom_hooks,
    dict(_base_.level_selection, probe_dataloader=probe_dataloader),
]
