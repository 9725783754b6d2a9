# Hinton's KD on the logits of a classifier, with mmrazor's own loss.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_kd=dict(type='mmrazor.KLDivergence', tau=4, loss_weight=1)),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
