# FreeKD on the five maps of an FPN: six tokens a band, and the squared error of
# the maps with weight 5, as in the official RetinaNet config. prompt_ckpt must
# name the tokens learned on the teacher (see the method's README).
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
        loss_freekd=dict(
            type='kdvit_mm.FreeKDLoss', channels=[256] * 5, num_tokens=6),
        loss_l2=dict(type='kdvit_mm.FeatureL2Loss', loss_weight=5)),
    loss_forward_mappings={
        loss: dict(
            preds_S=dict(
                recorder='fpn', from_student=True, connector='review'),
            preds_T=dict(recorder='fpn', from_student=False))
        for loss in ('loss_freekd', 'loss_l2')
    })
