# DIST on the class maps of a segmentor before they are enlarged, every pixel a
# sample, with the official values.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')),
    teacher_recorders=dict(
        logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')),
    distill_losses=dict(
        loss_dist=dict(
            type='kdvit_mm.DISTLoss', beta=1, gamma=1, loss_weight=1)),
    loss_forward_mappings=dict(
        loss_dist=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False))))
