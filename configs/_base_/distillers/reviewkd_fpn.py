# ReviewKD on the five maps of an FPN; weight 1.2 is the paper's for R101 -> R18
# (1.0 for R101 -> R50).
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    connectors=dict(
        review=dict(
            type='kdvit_mm.ReviewKDConnector',
            in_channels=[256] * 5,
            out_channels=[256] * 5,
            mid_channels=256)),
    distill_losses=dict(
        loss_reviewkd=dict(type='kdvit_mm.HCLLoss', loss_weight=1.2)),
    loss_forward_mappings=dict(
        loss_reviewkd=dict(
            preds_S=dict(
                recorder='fpn', from_student=True, connector='review'),
            preds_T=dict(recorder='fpn', from_student=False))))
