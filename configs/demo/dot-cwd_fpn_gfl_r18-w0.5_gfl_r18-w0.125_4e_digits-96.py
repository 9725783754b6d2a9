# CWD with the two momenta of DOT, in place of AdamW.
_base_ = './cwd_fpn_gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py'
optim_wrapper = dict(
    type='kdvit_mm.DOTOptimWrapper',
    optimizer=dict(
        _delete_=True,
        type='kdvit_mm.DOT',
        lr=0.02,
        momentum=0.9,
        delta=0.075,
        weight_decay=1e-4))
