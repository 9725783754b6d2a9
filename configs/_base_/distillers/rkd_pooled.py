# RKD on the pooled features of a classifier, with mdistiller's values.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        pooled=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(
        pooled=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_rkd=dict(
            type='kdvit_mm.RKDLoss', distance_weight=25, angle_weight=50)),
    loss_forward_mappings=dict(
        loss_rkd=dict(
            preds_S=dict(recorder='pooled', from_student=True, data_idx=0),
            preds_T=dict(recorder='pooled', from_student=False, data_idx=0))))
