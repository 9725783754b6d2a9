# KD on the class maps of GFL's head, each class a sigmoid. No code of this is
# known to us; the weight is said in the method's README.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    teacher_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    distill_losses=dict(
        loss_kd=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20)),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            preds_T=dict(recorder='head', from_student=False, data_idx=0))))
