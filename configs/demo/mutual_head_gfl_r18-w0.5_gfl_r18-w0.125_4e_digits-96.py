# Deep mutual learning of two detectors of different width.
_base_ = [
    './gfl_r18-w0.125_fpn_4e_digits-96.py',
    '../_base_/distillers/mutual_gfl_small.py',
]
import mmengine

model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MutualDistill',
    architecture=_base_.model,
    peers=dict(
        peer=mmengine.Config.fromfile(
            '{{ fileDirname }}/../_base_/models/gfl_r18-w0.5_fpn_digits.py'
        ).model),
    distiller=_base_.distiller)
optim_wrapper = dict(constructor='kdvit_mm.EachStudentConstructor')
val_cfg = dict(type='kdvit_mm.EachStudentValLoop')
