# The first generation of born-again networks: the student alone teaches a
# student like it.
_base_ = [
    './resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/ban_logits.py',
]
teacher = 'resnet18-w0.0625_10e_digits-32'
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
