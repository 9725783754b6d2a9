# CWD on the five maps of an FPN: temperature 1 and weight 10, as in mmrazor's
# GFL and RetinaNet configs.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_cwd=dict(type='kdvit_mm.CWDLoss', tau=1, loss_weight=10)),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(recorder='fpn', from_student=True),
            preds_T=dict(recorder='fpn', from_student=False))))
