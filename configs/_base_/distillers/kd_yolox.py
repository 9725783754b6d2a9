# What YOLOX's head says of classes, objects and boxes: all that a student can
# learn of images without labels.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    teacher_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head')),
    distill_losses=dict(
        loss_classes=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20),
        loss_boxes=dict(type='kdvit_mm.FeatureL2Loss', loss_weight=1),
        loss_objects=dict(
            type='kdvit_mm.KDLoss', tau=1, use_sigmoid=True, loss_weight=20)),
    loss_forward_mappings={
        loss: dict(
            preds_S=dict(
                recorder='head', from_student=True, data_idx=part),
            preds_T=dict(
                recorder='head', from_student=False, data_idx=part))
        for part, loss in enumerate(
            ('loss_classes', 'loss_boxes', 'loss_objects'))
    })
