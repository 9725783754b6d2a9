# CWD on the five maps of an FPN, with mmrazor's own loss.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_cwd_p{level + 3}': dict(
            type='mmrazor.ChannelWiseDivergence', tau=1, loss_weight=10)
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_cwd_p{level + 3}': dict(
            preds_S=dict(recorder='fpn', from_student=True, data_idx=level),
            preds_T=dict(recorder='fpn', from_student=False, data_idx=level))
        for level in range(5)
    })
