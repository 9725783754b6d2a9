# Self-distillation of a segmentor on a dilated ResNet-18: connectors make class
# maps of its second and third stage, which learn from those of its head.
channels = dict(layer2=128, layer3=256)
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders={
        layer: dict(type='ModuleOutputs', source=f'backbone.{layer}')
        for layer in channels
    },
    teacher_recorders=dict(
        logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')),
    connectors={
        layer: dict(
            type='ConvModuleConnector',
            in_channel=number,
            out_channel=19,
            act_cfg=None)
        for layer, number in channels.items()
    },
    distill_losses={
        f'loss_{layer}': dict(type='kdvit_mm.KDLoss', tau=1, loss_weight=0.3)
        for layer in channels
    },
    loss_forward_mappings={
        f'loss_{layer}': dict(
            preds_S=dict(
                recorder=layer, from_student=True, connector=layer),
            preds_T=dict(recorder='logits', from_student=False))
        for layer in channels
    })
