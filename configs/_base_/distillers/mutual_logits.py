# Deep mutual learning of two classifiers, the second of which is called peer:
# KL divergence of their probabilities, both ways.
recorders = dict(
    student=dict(type='ModuleOutputs', source='architecture.head.fc'),
    peer=dict(type='ModuleOutputs', source='peers.peer.head.fc'))
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=recorders,
    teacher_recorders=recorders,
    distill_losses=dict(
        loss_student=dict(type='kdvit_mm.KDLoss', tau=1, loss_weight=1),
        loss_peer=dict(type='kdvit_mm.KDLoss', tau=1, loss_weight=1)),
    loss_forward_mappings=dict(
        loss_student=dict(
            preds_S=dict(recorder='student', from_student=True),
            preds_T=dict(recorder='peer', from_student=False)),
        loss_peer=dict(
            preds_S=dict(recorder='peer', from_student=True),
            preds_T=dict(recorder='student', from_student=False))))
