# A hint at the second stage of a ResNet-18 or -34, with mdistiller's regressor
# and weight, which are for CIFAR-100.
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
