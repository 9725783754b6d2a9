# FreeKD on the FPN of a RetinaNet and, as in the official config, on what its
# head predicts for the boxes of each level.
_base_ = './freekd_fpn.py'
distiller = dict(
    student_recorders=dict(
        boxes=dict(type='ModuleOutputs', source='bbox_head.retina_reg')),
    teacher_recorders=dict(
        boxes=dict(type='ModuleOutputs', source='bbox_head.retina_reg')),
    distill_losses={
        f'loss_boxes_{level}': dict(type='mmdet.SmoothL1Loss', loss_weight=1)
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_boxes_{level}': dict(
            pred=dict(recorder='boxes', from_student=True, record_idx=level),
            target=dict(
                recorder='boxes', from_student=False, record_idx=level))
        for level in range(5)
    })
