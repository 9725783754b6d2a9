_base_ = [
    'mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py',
    '../runtime/plugin.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path=  # noqa: E251
        'mmseg::upernet/upernet_r101_4xb2-80k_cityscapes-512x1024.py'),
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/upernet/upernet_r101_512x1024_80k_cityscapes/upernet_r101_512x1024_80k_cityscapes_20200607_002403-f05f2345.pth')  # noqa: E501
