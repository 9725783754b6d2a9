# DKD on the logits of a classifier, with mdistiller's values for CIFAR-100: the
# weight grows over 20 epochs.
schedules = [
    dict(loss='loss_dkd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_dkd=dict(type='kdvit_mm.DKDLoss', alpha=1, beta=8, tau=4)),
    loss_forward_mappings=dict(
        loss_dkd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
