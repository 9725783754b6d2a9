# SDD around Hinton's KD, with the official values for CIFAR-100; ce_weight is
# that of the task's own loss.
ce_weight = 0.1
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        maps=dict(type='kdvit_mm.PooledMap', source='neck.gap'),
        samples=dict(type='ModuleInputs', source=''),
        fc=dict(type='kdvit_mm.Module', source='head.fc')),
    teacher_recorders=dict(
        maps=dict(type='kdvit_mm.PooledMap', source='neck.gap'),
        fc=dict(type='kdvit_mm.Module', source='head.fc')),
    distill_losses=dict(
        loss_sdd=dict(
            type='kdvit_mm.ScaleDecouple',
            scales=[1, 2, 4],
            loss=dict(type='KDLoss', tau=4, loss_weight=0.9))),
    loss_forward_mappings=dict(
        loss_sdd=dict(
            preds_S=dict(recorder='maps', from_student=True, data_idx=0),
            preds_T=dict(recorder='maps', from_student=False, data_idx=0),
            fc_S=dict(recorder='fc', from_student=True),
            fc_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
