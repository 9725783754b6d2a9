# DIST on the logits of a classifier, with the official values for CIFAR-100.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_dist=dict(
            type='kdvit_mm.DISTLoss', beta=1, gamma=1, tau=4, loss_weight=2)),
    loss_forward_mappings=dict(
        loss_dist=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
