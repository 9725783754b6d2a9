# PKD on the first four maps of an FPN; weight 10 for one-stage teachers (6 for
# two-stage ones).
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_pkd_{level}': dict(type='kdvit_mm.PKDLoss', loss_weight=10)
        for level in range(4)
    },
    loss_forward_mappings={
        f'loss_pkd_{level}': dict(
            preds_S=dict(recorder='fpn', from_student=True, data_idx=level),
            preds_T=dict(recorder='fpn', from_student=False, data_idx=level))
        for level in range(4)
    })
