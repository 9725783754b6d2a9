# SSKD's first stage: a head learned on the teacher, whose weights stay.
_base_ = [
    '../../../_base_/models/resnet32x4_cifar100.py',
    '../../../_base_/datasets/cifar100_classification.py',
    '../../../_base_/schedules/sgd_240e.py',
    '../../../_base_/runtime/cls_runtime.py',
]
train_cfg = dict(max_epochs=60)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SSKDHeadLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://resnet32x4_240e_cifar100')),
    channels=256,
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        type='RotatedViewsDataPreprocessor'))
param_scheduler = dict(milestones=[30, 45])
