# DeFeat on the five maps of a one-stage detector's FPN. The weights are those
# of the official config, which is for VOC.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_defeat=dict(
            type='kdvit_mm.LevelWise',
            num_levels=5,
            connector=dict(
                type='kdvit_mm.DeFeatAdapter', in_channel=256,
                out_channel=256),
            loss=dict(
                type='kdvit_mm.DeFeatLoss',
                fg_weight=3,
                bg_weight=12,
                stride=[8, 16, 32, 64, 128]))),
    loss_forward_mappings=dict(
        loss_defeat=dict(
            preds_S=dict(recorder='fpn', from_student=True),
            preds_T=dict(recorder='fpn', from_student=False),
            data_samples=dict(
                recorder='inputs', from_student=True, data_idx=1))))
