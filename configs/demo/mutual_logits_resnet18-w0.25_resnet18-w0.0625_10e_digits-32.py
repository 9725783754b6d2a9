# Deep mutual learning of two students of different width.
_base_ = [
    './resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/mutual_logits.py',
]
import mmengine

model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MutualDistill',
    architecture=_base_.model,
    peers=dict(
        peer=mmengine.Config.fromfile(
            '{{ fileDirname }}/../_base_/models/resnet18-w0.25_cifar_small.py'
        ).model),
    distiller=_base_.distiller)
optim_wrapper = dict(constructor='kdvit_mm.EachStudentConstructor')
val_cfg = dict(type='kdvit_mm.EachStudentValLoop')
