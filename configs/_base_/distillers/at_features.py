# AT on the features that a segmentor classifies, with the weight of CIRKD's
# code.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout')),
    teacher_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout')),
    distill_losses=dict(
        loss_at=dict(type='kdvit_mm.ATLoss', loss_weight=10000)),
    loss_forward_mappings=dict(
        loss_at=dict(
            preds_S=dict(recorder='features', from_student=True),
            preds_T=dict(recorder='features', from_student=False))))
