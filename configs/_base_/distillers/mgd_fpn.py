# MGD on the five maps of an FPN, with the official values for one-stage
# detectors.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_mgd=dict(
            type='kdvit_mm.LevelWise',
            num_levels=5,
            connector=dict(
                type='kdvit_mm.MGDGenerator',
                student_channels=256,
                teacher_channels=256,
                lambda_mgd=0.65),
            loss=dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5))),
    loss_forward_mappings=dict(
        loss_mgd=dict(
            preds_S=dict(recorder='fpn', from_student=True),
            preds_T=dict(recorder='fpn', from_student=False))))
