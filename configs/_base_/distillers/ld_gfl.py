# LD on GFL's head, with the official values: main region, valuable region and
# classes. Anchors and assigner are those of mmdet's GFL configs.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        head=dict(type='ModuleOutputs', source='bbox_head'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(head=dict(type='ModuleOutputs', source='bbox_head')),
    distill_losses=dict(
        loss_ld=dict(
            type='kdvit_mm.LDLoss',
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128]),
            assigner=dict(type='ATSSAssigner', topk=9),
            ld_weight=0.25,
            vlr_weight=0.25,
            kd_weight=10)),
    loss_forward_mappings=dict(
        loss_ld=dict(
            preds_S=dict(recorder='head', from_student=True),
            preds_T=dict(recorder='head', from_student=False),
            data_samples=dict(
                recorder='inputs', from_student=True, data_idx=1))))
