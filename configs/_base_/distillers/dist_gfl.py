# DIST on the class maps of GFL's head, in its form for sigmoid heads, with the
# official values.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    teacher_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    distill_losses=dict(
        loss_dist=dict(
            type='kdvit_mm.DISTLoss',
            beta=1,
            gamma=1,
            use_sigmoid=True,
            loss_weight=1)),
    loss_forward_mappings=dict(
        loss_dist=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            preds_T=dict(recorder='head', from_student=False, data_idx=0))))
