# FGD on the five maps of an FPN, with the official values for RetinaNet, GFL
# and SOLO.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_fgd=dict(
            type='kdvit_mm.LevelWise',
            num_levels=5,
            loss=dict(
                type='kdvit_mm.FGDLoss',
                channels=256,
                tau=0.5,
                alpha_fgd=1e-3,
                beta_fgd=5e-4,
                gamma_fgd=5e-4,
                lambda_fgd=5e-6))),
    loss_forward_mappings=dict(
        loss_fgd=dict(
            preds_S=dict(recorder='fpn', from_student=True),
            preds_T=dict(recorder='fpn', from_student=False),
            data_samples=dict(
                recorder='inputs', from_student=True, data_idx=1))))
