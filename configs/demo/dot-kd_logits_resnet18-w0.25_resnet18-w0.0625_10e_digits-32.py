# KD with the two momenta of DOT, in place of AdamW.
_base_ = './kd_logits_resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py'
optim_wrapper = dict(
    type='kdvit_mm.DOTOptimWrapper',
    optimizer=dict(
        _delete_=True,
        type='kdvit_mm.DOT',
        lr=0.1,
        momentum=0.9,
        delta=0.075,
        weight_decay=5e-4))
