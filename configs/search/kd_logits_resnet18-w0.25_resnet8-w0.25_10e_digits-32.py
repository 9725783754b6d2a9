# The distillation of the students in configs/benchmark/students_digits.yaml,
# without augmentation: the teacher sees an image once for all of them.
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet8-w0.25_10e_digits-32.py',
    '../_base_/distillers/kd_logits.py',
]
model = dict(
    distiller=_base_.distiller,
    cache=dict(dir='work_dirs/records_digits', dtype='float32'))
train_dataloader = dict(
    batch_size=32, dataset=dict(pipeline=_base_.test_pipeline))
