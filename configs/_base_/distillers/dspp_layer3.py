# DSPP at the third stage of ResNet-32x4 and ResNet-8x4 beside Hinton's KD,
# with the values of the official command.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        maps=dict(type='ModuleOutputs', source='backbone.layer3'),
        fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(
        maps=dict(type='ModuleOutputs', source='backbone.layer3'),
        fc=dict(type='ModuleOutputs', source='head.fc')),
    connectors=dict(
        regressor=dict(
            type='ConvModuleConnector',
            in_channel=256,
            out_channel=256,
            bias=True,
            norm_cfg=dict(type='BN'))),
    distill_losses=dict(
        loss_dspp=dict(
            type='kdvit_mm.DSPPLoss',
            max_weight=1,
            min_weight=10,
            num_levels=3,
            topk=100),
        loss_kd=dict(type='kdvit_mm.KDLoss', tau=4)),
    loss_forward_mappings=dict(
        loss_dspp=dict(
            preds_S=dict(
                recorder='maps', from_student=True, connector='regressor'),
            preds_T=dict(recorder='maps', from_student=False)),
        loss_kd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
