# MLLD on the logits of weak and strong views, with the official values for
# CIFAR-100. The official code adds up the task's losses of the two views, of
# which the student has the mean here: ce_weight is twice as large.
ce_weight = 0.2
preprocessor = 'kdvit_mm.TwoViewDataPreprocessor'
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_mlld=dict(type='kdvit_mm.MLLDLoss', tau=4, loss_weight=0.9)),
    loss_forward_mappings=dict(
        loss_mlld=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
