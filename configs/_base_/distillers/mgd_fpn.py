# MGD on the five maps of an FPN, with the official values for one-stage
# detectors.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    connectors={
        f'generator_{level}': dict(
            type='kdvit_mm.MGDGenerator',
            student_channels=256,
            teacher_channels=256,
            lambda_mgd=0.65)
        for level in range(5)
    },
    distill_losses={
        f'loss_mgd_{level}': dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5)
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_mgd_{level}': dict(
            preds_S=dict(
                recorder='fpn',
                from_student=True,
                data_idx=level,
                connector=f'generator_{level}'),
            preds_T=dict(recorder='fpn', from_student=False, data_idx=level))
        for level in range(5)
    })
