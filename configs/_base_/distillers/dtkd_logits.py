# DTKD on the logits of a classifier, with the official values for CIFAR-100:
# the weight grows over 20 epochs.
schedules = [
    dict(loss='loss_dtkd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_dtkd=dict(type='kdvit_mm.DTKDLoss', alpha=3, beta=1, tau=4)),
    loss_forward_mappings=dict(
        loss_dtkd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
