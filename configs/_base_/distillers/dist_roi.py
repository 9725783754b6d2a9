# DIST on the classes that both RoI heads give the student's proposals, with the
# official values. For heads of mmdet's StandardRoIHead.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        rois=dict(type='ModuleInputs', source='roi_head.bbox_roi_extractor'),
        head=dict(type='ModuleOutputs', source='roi_head.bbox_head')),
    teacher_recorders=dict(
        fpn=dict(type='ModuleOutputs', source='neck'),
        roi_head=dict(type='kdvit_mm.Module', source='roi_head')),
    distill_losses=dict(
        loss_dist=dict(
            type='kdvit_mm.SharedRoILoss',
            loss=dict(type='kdvit_mm.DISTLoss', beta=1, gamma=1, tau=1))),
    loss_forward_mappings=dict(
        loss_dist=dict(
            preds_S=dict(recorder='head', from_student=True, data_idx=0),
            rois=dict(recorder='rois', from_student=True, data_idx=1),
            maps_T=dict(recorder='fpn', from_student=False),
            roi_head_T=dict(recorder='roi_head', from_student=False))))
