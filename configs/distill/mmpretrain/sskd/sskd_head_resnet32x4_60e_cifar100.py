# SSKD's first stage: a head learned on the teacher, whose weights stay.
_base_ = '../../../pretrain/resnet32x4_240e_cifar100.py'
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
val_cfg = None
val_dataloader = None
val_evaluator = None
param_scheduler = dict(milestones=[30, 45])
