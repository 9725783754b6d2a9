# FreeKD on the last stage of a segmentor's ResNet-18 and ResNet-101. No config
# of the paper for segmentation is public: tokens and weights are those of the
# detection config. prompt_ckpt must name the tokens learned on the teacher
# (see the method's README).
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        layer4=dict(type='ModuleOutputs', source='backbone.layer4')),
    teacher_recorders=dict(
        layer4=dict(type='ModuleOutputs', source='backbone.layer4')),
    connectors=dict(
        align=dict(
            type='ConvModuleConnector',
            in_channel=512,
            out_channel=2048,
            act_cfg=None)),
    distill_losses=dict(
        loss_freekd=dict(
            type='kdvit_mm.FreeKDLoss', channels=[2048], num_tokens=6),
        loss_l2=dict(type='kdvit_mm.FeatureL2Loss', loss_weight=5)),
    loss_forward_mappings={
        loss: dict(
            preds_S=dict(
                recorder='layer4', from_student=True, connector='align'),
            preds_T=dict(recorder='layer4', from_student=False))
        for loss in ('loss_freekd', 'loss_l2')
    })
