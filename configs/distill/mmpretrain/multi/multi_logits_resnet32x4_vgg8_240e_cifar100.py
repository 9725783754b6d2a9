# Two teachers; the one that is right more often counts more.
_base_ = [
    '../../../students/mmpretrain/vgg8_240e_cifar100.py',
    '../../../_base_/distillers/multi_logits.py',
]
import mmengine

model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='MultiTeacherDistill',
    architecture=_base_.model,
    teachers=[
        dict(
            name='wide',
            teacher=mmengine.Config.fromfile(
                '{{ fileDirname }}/../../../_base_/models/'
                'resnet32x4_cifar100.py').model,
            teacher_ckpt='stage://resnet32x4_240e_cifar100'),
        dict(
            name='narrow',
            teacher=mmengine.Config.fromfile(
                '{{ fileDirname }}/../../../_base_/models/'
                'wrn-40-2_cifar100.py').model,
            teacher_ckpt='stage://wrn-40-2_240e_cifar100')],
    weights='loss',
    distiller=_base_.distiller)
