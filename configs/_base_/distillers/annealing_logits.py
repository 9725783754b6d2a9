# The first stage of annealing KD, without the task's own loss: the temperature
# goes up a stair each 24 of 240 epochs (20 of 200 in the official trainer).
calculate_student_loss = False
schedules = [
    dict(
        loss='loss_annealing',
        key='tau',
        type='constant',
        factor=tau,
        begin=24 * (tau - 1),
        end=24 * tau) for tau in range(2, 11)
]
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_annealing=dict(type='kdvit_mm.AnnealingKDLoss', max_tau=10)),
    loss_forward_mappings=dict(
        loss_annealing=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False))))
