# Two teachers of different width; the one with the lower loss counts more.
_base_ = [
    './gfl_r18-w0.125_fpn_4e_digits-96.py',
    '../_base_/distillers/multi_gfl_small.py',
]
import mmengine

assistant = 'takd_assistant_gfl_r18-w0.5_gfl_r18-w0.25_4e_digits-96'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MultiTeacherDistill',
    architecture=_base_.model,
    teachers=[
        dict(
            name='wide',
            teacher=mmengine.Config.fromfile(
                '{{ fileDirname }}/../_base_/models/'
                'gfl_r18-w0.5_fpn_digits.py').model,
            teacher_ckpt='stage://gfl_r18-w0.5_fpn_12e_digits-96'),
        dict(
            name='narrow',
            teacher=mmengine.Config.fromfile(
                '{{ fileDirname }}/../_base_/models/'
                'gfl_r18-w0.25_fpn_digits.py').model,
            teacher_ckpt=f'stage://{assistant}/student')],
    weights='loss',
    distiller=_base_.distiller)
