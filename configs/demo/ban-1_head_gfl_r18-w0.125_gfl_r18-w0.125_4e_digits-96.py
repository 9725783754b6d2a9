# The first generation of born-again detectors: the student alone teaches a
# student like it.
_base_ = [
    './gfl_r18-w0.125_fpn_4e_digits-96.py',
    '../_base_/distillers/kd_gfl_small.py',
]
teacher = 'gfl_r18-w0.125_fpn_4e_digits-96'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=_base_.model,
    teacher_ckpt=f'stage://{teacher}',
    distiller=_base_.distiller)
# All generations start from weights of their own.
randomness = dict(seed=1)
