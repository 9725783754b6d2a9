# DKD on the classes that both RoI heads give the student's proposals, with
# the paper's values for detection. For heads of mmdet's StandardRoIHead.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        rois=dict(type='ModuleInputs', source='roi_head.bbox_roi_extractor'),
        head=dict(type='ModuleOutputs', source='roi_head.bbox_head'),
        targets=dict(
            type='MethodOutputs',
            source='mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead.'
            'get_targets')),
    teacher_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        roi_head=dict(type='kdvit_mm.Module', source='roi_head')),
    distill_losses=dict(
        loss_dkd=dict(
            type='kdvit_mm.SharedRoILoss',
            loss=dict(type='kdvit_mm.DKDLoss', alpha=1, beta=0.25, tau=1))),
    loss_forward_mappings=dict(
        loss_dkd=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            rois=dict(recorder='rois', from_student=True, data_idx=1),
            labels=dict(recorder='targets', from_student=True, data_idx=0),
            maps_T=dict(recorder='fpn', from_student=False),
            roi_head_T=dict(recorder='roi_head', from_student=False))))
