_base_ = [
    '../../students/mmseg/pspnet_r18-d8_4xb4-40k_camvid-360x360.py',
    '../runtime/plugin.py',
]
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        cfg_path=  # noqa: E251
        'mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-40k_voc12aug-512x512.py',
        decode_head=dict(num_classes=11),
        auxiliary_head=dict(num_classes=11)),
    teacher_ckpt='stage://deeplabv3_r101-d8_4xb4-40k_camvid-360x360')
