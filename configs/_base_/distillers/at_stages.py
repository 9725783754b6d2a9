# Attention transfer at three stages, with mdistiller's weight.
stages = dict(
    type='kdvit_mm.ModuleTuple',
    parts=[
        dict(source='backbone.layer1'),
        dict(source='backbone.layer2'),
        dict(source='backbone.layer3'),
    ])
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(stages=stages),
    teacher_recorders=dict(stages=stages),
    distill_losses=dict(
        loss_at=dict(type='kdvit_mm.ATLoss', loss_weight=1000)),
    loss_forward_mappings=dict(
        loss_at=dict(
            preds_S=dict(recorder='stages', from_student=True),
            preds_T=dict(recorder='stages', from_student=False))))
