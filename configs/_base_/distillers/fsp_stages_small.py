# FSP as in fsp_stages.py, for networks of four stages whose channels differ,
# which the paper has not: connectors give the student's maps the teacher's
# channels.
calculate_student_loss = False
stages = dict(
    type='kdvit_mm.ModuleTuple',
    parts=[
        dict(source='backbone.layer1'),
        dict(source='backbone.layer2'),
        dict(source='backbone.layer3'),
        dict(source='backbone.layer4'),
    ])
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(stages=stages),
    teacher_recorders=dict(stages=stages),
    distill_losses=dict(
        loss_fsp=dict(
            type='kdvit_mm.LevelWise',
            num_levels=4,
            connector=[
                dict(
                    type='ConvModuleConnector',
                    in_channel=channels,
                    out_channel=4 * channels,
                    act_cfg=None) for channels in (4, 8, 16, 32)
            ],
            loss=dict(type='kdvit_mm.FSPLoss'))),
    loss_forward_mappings=dict(
        loss_fsp=dict(
            preds_S=dict(recorder='stages', from_student=True),
            preds_T=dict(recorder='stages', from_student=False))))
