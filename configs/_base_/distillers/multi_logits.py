# KD on the logits of two teachers, which are called wide and narrow: the
# student's probabilities are drawn to those of both, by the teachers' weights.
# ce_weight is that of the task's own loss.
ce_weight = 1
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(
        wide=dict(type='ModuleOutputs', source='wide.head.fc'),
        narrow=dict(type='ModuleOutputs', source='narrow.head.fc')),
    distill_losses=dict(
        loss_wide=dict(type='kdvit_mm.KDLoss', tau=4, loss_weight=1),
        loss_narrow=dict(type='kdvit_mm.KDLoss', tau=4, loss_weight=1)),
    loss_forward_mappings=dict(
        loss_wide=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='wide', from_student=False)),
        loss_narrow=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='narrow', from_student=False))))
