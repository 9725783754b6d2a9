# SP on the features that a segmentor classifies. The weight is RepDistiller's
# 3000 for batches of 64, for two images per GPU: the loss is a mean over pairs.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout')),
    teacher_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout')),
    distill_losses=dict(
        loss_sp=dict(type='kdvit_mm.SPLoss', loss_weight=100)),
    loss_forward_mappings=dict(
        loss_sp=dict(
            preds_S=dict(recorder='features', from_student=True),
            preds_T=dict(recorder='features', from_student=False))))
