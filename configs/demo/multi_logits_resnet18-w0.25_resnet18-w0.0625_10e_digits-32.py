# Two teachers of different width; the one that is right more often counts more.
_base_ = [
    './resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/multi_logits.py',
]
import mmengine

assistant = 'takd_assistant_resnet18-w0.25_resnet18-w0.125_10e_digits-32'
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
                'resnet18-w0.25_cifar_small.py').model,
            teacher_ckpt='stage://resnet18-w0.25_10e_digits-32'),
        dict(
            name='narrow',
            teacher=mmengine.Config.fromfile(
                '{{ fileDirname }}/../_base_/models/'
                'resnet18-w0.125_cifar_small.py').model,
            teacher_ckpt=f'stage://{assistant}/student')],
    weights='loss',
    distiller=_base_.distiller)
