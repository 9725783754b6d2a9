# Deep mutual learning of two detectors with GFL's head, the second of which is
# called peer: their class maps, each class a sigmoid, both ways. The weights
# are those of KD on GFL's head.
recorders = dict(
    student=dict(type='ModuleOutputs', source='architecture.bbox_head'),
    peer=dict(type='ModuleOutputs', source='peers.peer.bbox_head'))
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=recorders,
    teacher_recorders=recorders,
    distill_losses=dict(
        loss_student=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20),
        loss_peer=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20)),
    loss_forward_mappings=dict(
        loss_student=dict(
            preds_S=dict(recorder='student', from_student=True, data_idx=0),
            preds_T=dict(recorder='peer', from_student=False, data_idx=0)),
        loss_peer=dict(
            preds_S=dict(recorder='peer', from_student=True, data_idx=0),
            preds_T=dict(recorder='student', from_student=False, data_idx=0))))
