# FGD on the five maps of an FPN, with the official values for RetinaNet, GFL
# and SOLO.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_fgd_{level}': dict(
            type='kdvit_mm.FGDLoss',
            channels=256,
            temp=0.5,
            alpha_fgd=1e-3,
            beta_fgd=5e-4,
            gamma_fgd=5e-4,
            lambda_fgd=5e-6)
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_fgd_{level}': dict(
            preds_S=dict(recorder='fpn', from_student=True, data_idx=level),
            preds_T=dict(recorder='fpn', from_student=False, data_idx=level),
            data_samples=dict(recorder='inputs', from_student=True, data_idx=1))
        for level in range(5)
    })
