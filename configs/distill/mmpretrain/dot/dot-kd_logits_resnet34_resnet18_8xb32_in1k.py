# KD with the two momenta of DOT, with the official values for ImageNet.
_base_ = '../kd/kd_logits_resnet34_resnet18_8xb32_in1k.py'
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    distiller=dict(distill_losses=dict(loss_kd=dict(loss_weight=0.5))))
optim_wrapper = dict(
    type='kdvit_mm.DOTOptimWrapper',
    optimizer=dict(type='kdvit_mm.DOT', delta=0.09))
