# DeFeat on the five maps, P2 to P6, of a two-stage detector's FPN and on the
# classes of its RoI head, with the official values, which are for VOC.
_base_ = './defeat_fpn.py'
distiller = dict(
    student_recorders=dict(
        rois=dict(type='ModuleInputs', source='roi_head.bbox_roi_extractor'),
        head=dict(type='ModuleOutputs', source='roi_head.bbox_head'),
        targets=dict(
            type='MethodOutputs',
            source='mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead.'
            'get_targets')),
    teacher_recorders=dict(
        roi_head=dict(type='kdvit_mm.Module', source='roi_head')),
    distill_losses=dict(
        loss_defeat=dict(loss=dict(stride=[4, 8, 16, 32, 64])),
        loss_defeat_roi=dict(
            type='kdvit_mm.SharedRoILoss',
            loss=dict(
                type='kdvit_mm.DeFeatRoILoss',
                fg_weight=2,
                bg_weight=2,
                tau=1))),
    loss_forward_mappings=dict(
        loss_defeat_roi=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            rois=dict(recorder='rois', from_student=True, data_idx=1),
            labels=dict(recorder='targets', from_student=True, data_idx=0),
            maps_T=dict(recorder='fpn', from_student=False),
            roi_head_T=dict(recorder='roi_head', from_student=False))))
