# A hint at the second stage, with mdistiller's regressor and weight for
# ResNet-32x4 and ResNet-8x4.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        hint=dict(type='ModuleOutputs', source='backbone.layer2')),
    teacher_recorders=dict(
        hint=dict(type='ModuleOutputs', source='backbone.layer2')),
    connectors=dict(
        regressor=dict(
            type='ConvModuleConnector',
            in_channel=128,
            out_channel=128,
            bias=True,
            norm_cfg=dict(type='BN'))),
    distill_losses=dict(
        loss_hint=dict(type='kdvit_mm.FeatureL2Loss', loss_weight=100)),
    loss_forward_mappings=dict(
        loss_hint=dict(
            preds_S=dict(
                recorder='hint', from_student=True, connector='regressor'),
            preds_T=dict(recorder='hint', from_student=False))))
