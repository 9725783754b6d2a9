# KD on the class maps of two teachers with GFL's head, which are called wide
# and narrow. The weights are those of KD on GFL's head.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    teacher_recorders=dict(
        wide=dict(type='ModuleOutputs', source='wide.bbox_head'),
        narrow=dict(type='ModuleOutputs', source='narrow.bbox_head')),
    distill_losses=dict(
        loss_wide=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20),
        loss_narrow=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20)),
    loss_forward_mappings=dict(
        loss_wide=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            preds_T=dict(recorder='wide', from_student=False, data_idx=0)),
        loss_narrow=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            preds_T=dict(recorder='narrow', from_student=False, data_idx=0))))
