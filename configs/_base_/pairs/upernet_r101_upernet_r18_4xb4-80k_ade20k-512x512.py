_base_ = [
    'mmseg::upernet/upernet_r18_4xb4-80k_ade20k-512x512.py',
    '../runtime/plugin.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path=  # noqa: E251
        'mmseg::upernet/upernet_r101_4xb4-80k_ade20k-512x512.py'),
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/upernet/upernet_r101_512x512_80k_ade20k/upernet_r101_512x512_80k_ade20k_20200614_185117-32e4db94.pth')  # noqa: E501
