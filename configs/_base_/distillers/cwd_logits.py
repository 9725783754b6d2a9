# CWD on the class maps before they are enlarged, with the paper's values.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')),
    teacher_recorders=dict(
        logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')),
    distill_losses=dict(
        loss_cwd=dict(
            type='kdvit_mm.CWDLoss', tau=4, loss_weight=3)),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False))))
