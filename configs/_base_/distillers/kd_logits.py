# Hinton's KD on the logits of a classifier, with the usual values for
# CIFAR-100; ce_weight is that of the task's own loss.
ce_weight = 0.1
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_kd=dict(type='kdvit_mm.KDLoss', tau=4, loss_weight=0.9)),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
