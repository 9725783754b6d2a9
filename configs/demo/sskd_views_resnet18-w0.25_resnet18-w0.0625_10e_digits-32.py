# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/sskd_views.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_sskd.student_channels = 32
distiller.distill_losses.loss_sskd.teacher_channels = 128
distiller.distill_losses.loss_sskd.head_ckpt = 'stage://sskd_head_resnet18-w0.25_2e_digits-32'
model = dict(
    architecture=dict(data_preprocessor=dict(type=_base_.preprocessor)),
    calculate_student_loss=_base_.calculate_student_loss,
    distiller=distiller,
)
