# BYOT's branches after the first three stages of a ResNet-18 for 32 px, which
# are 8, 4 and 2 times as large as the last.
channels = (64, 128, 256)
out_channels = 512
num_classes = 100
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        samples=dict(type='ModuleInputs', source=''),
        **{
            f'stage{i}': dict(
                type='ModuleOutputs', source=f'backbone.layer{i}')
            for i in (1, 2, 3)
        }),
    teacher_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        pooled=dict(type='ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_stage{i}': dict(
            type='kdvit_mm.BYOTLoss',
            in_channels=channels[i - 1],
            out_channels=out_channels,
            num_classes=num_classes,
            stride=2**(4 - i),
            alpha=0.3,
            tau=3,
            feature_weight=0.03)
        for i in (1, 2, 3)
    },
    loss_forward_mappings={
        f'loss_stage{i}': dict(
            preds_S=dict(recorder=f'stage{i}', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            features_T=dict(
                recorder='pooled', from_student=False, data_idx=0),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))
        for i in (1, 2, 3)
    })
