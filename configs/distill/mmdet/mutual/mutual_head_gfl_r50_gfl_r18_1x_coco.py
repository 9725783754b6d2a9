# Deep mutual learning of GFL R18 and GFL R50.
_base_ = [
    '../../../students/mmdet/gfl_r18_fpn_1x_coco.py',
    '../../../_base_/runtime/plugin.py',
    '../../../_base_/distillers/mutual_gfl.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MutualDistill',
    architecture=_base_.model,
    peers=dict(peer=dict(cfg_path='mmdet::gfl/gfl_r50_fpn_1x_coco.py')),
    distiller=_base_.distiller)
optim_wrapper = dict(constructor='kdvit_mm.EachStudentConstructor')
val_cfg = dict(type='kdvit_mm.EachStudentValLoop')
