# LSKD around DKD, with the official values for ResNet-32x4 and ResNet-8x4:
# DKD's alpha and beta are those of dkd_logits.py times 9.
schedules = [
    dict(loss='loss_lskd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_lskd=dict(
            type='kdvit_mm.LogitStandardise',
            loss=dict(type='DKDLoss', alpha=9, beta=72, tau=2))),
    loss_forward_mappings=dict(
        loss_lskd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
