# PKD on the first four maps of an FPN; weight 10 for one-stage teachers (6 for
# two-stage ones).
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_pkd=dict(
            type='kdvit_mm.LevelWise',
            num_levels=5,
            levels=[0, 1, 2, 3],
            loss=dict(type='kdvit_mm.PKDLoss', loss_weight=10))),
    loss_forward_mappings=dict(
        loss_pkd=dict(
            preds_S=dict(recorder='fpn', from_student=True),
            preds_T=dict(recorder='fpn', from_student=False))))
