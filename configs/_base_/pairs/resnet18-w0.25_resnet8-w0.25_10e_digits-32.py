_base_ = './resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py'
import mmengine

student = mmengine.Config.fromfile(
    '{{ fileDirname }}/../models/resnet8-w0.25_cifar_small.py').model
model = dict(architecture=dict(_delete_=True, **student))
