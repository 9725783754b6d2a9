# DeFeat on the five maps of a one-stage detector's FPN. The weights are those
# of the official config, which is for VOC.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    connectors={
        f'adapter_{level}': dict(
            type='kdvit_mm.DeFeatAdapter', in_channel=256, out_channel=256)
        for level in range(5)
    },
    distill_losses={
        f'loss_defeat_{level}': dict(
            type='kdvit_mm.DeFeatLoss',
            fg_weight=3,
            bg_weight=12,
            stride=8 * 2**level,
            level=level,
            num_levels=5)
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_defeat_{level}': dict(
            preds_S=dict(
                recorder='fpn',
                from_student=True,
                data_idx=level,
                connector=f'adapter_{level}'),
            preds_T=dict(recorder='fpn', from_student=False, data_idx=level),
            data_samples=dict(recorder='inputs', from_student=True, data_idx=1))
        for level in range(5)
    })
