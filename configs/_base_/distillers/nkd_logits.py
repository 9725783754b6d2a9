# NKD on the logits of a classifier, with the official values for ImageNet.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_nkd=dict(type='kdvit_mm.NKDLoss', gamma=1.5, tau=1)),
    loss_forward_mappings=dict(
        loss_nkd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
