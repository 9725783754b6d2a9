# SSKD's first stage: a head learned on the teacher, whose weights stay.
_base_ = './resnet18-w0.25_10e_digits-32.py'
train_cfg = dict(max_epochs=2, val_interval=2)
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='SSKDHeadLearning',
    architecture=dict(
        _base_.model,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='stage://resnet18-w0.25_10e_digits-32')),
    channels=128,
    data_preprocessor=dict(
        _base_.model.data_preprocessor,
        type='RotatedViewsDataPreprocessor'))
param_scheduler = [_base_.param_scheduler[0]]
