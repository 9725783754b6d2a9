# DeFeat on the five maps, P2 to P6, of a two-stage detector's FPN and on the
# classes of its RoI head, with the official values, which are for VOC.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        data_samples=dict(type='ModuleInputs', source=''),
        rois=dict(type='ModuleInputs', source='roi_head.bbox_roi_extractor'),
        head=dict(type='ModuleOutputs', source='roi_head.bbox_head'),
        targets=dict(
            type='MethodOutputs',
            source='mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead.'
            'get_targets')),
    teacher_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        roi_head=dict(type='kdvit_mm.Module', source='roi_head')),
    connectors={
        f'adapt_p{level + 2}': dict(
            type='kdvit_mm.DeFeatAdapter', in_channel=256, out_channel=256)
        for level in range(5)
    },
    distill_losses=dict(
        {
            f'loss_defeat_p{level + 2}': dict(
                type='kdvit_mm.DeFeatLoss',
                fg_weight=3,
                bg_weight=12,
                stride=4 * 2**level,
                level=level,
                num_levels=5)
            for level in range(5)
        },
        loss_defeat_roi=dict(
            type='kdvit_mm.SharedRoILoss',
            loss=dict(
                type='kdvit_mm.DeFeatRoILoss',
                fg_weight=2,
                bg_weight=2,
                temperature=1))),
    loss_forward_mappings=dict(
        {
            f'loss_defeat_p{level + 2}': dict(
                preds_S=dict(
                    recorder='fpn',
                    from_student=True,
                    data_idx=level,
                    connector=f'adapt_p{level + 2}'),
                preds_T=dict(
                    recorder='fpn', from_student=False, data_idx=level),
                data_samples=dict(
                    recorder='data_samples', from_student=True, data_idx=1))
            for level in range(5)
        },
        loss_defeat_roi=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            rois=dict(recorder='rois', from_student=True, data_idx=1),
            labels=dict(recorder='targets', from_student=True, data_idx=0),
            maps_T=dict(recorder='fpn', from_student=False),
            roi_head_T=dict(recorder='roi_head', from_student=False))))
