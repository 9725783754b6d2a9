# SP on the last map of a ResNet for CIFAR-100, with RepDistiller's weight.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        maps=dict(type='ModuleOutputs', source='backbone.layer3')),
    teacher_recorders=dict(
        maps=dict(type='ModuleOutputs', source='backbone.layer3')),
    distill_losses=dict(
        loss_sp=dict(type='kdvit_mm.SPLoss', loss_weight=3000)),
    loss_forward_mappings=dict(
        loss_sp=dict(
            preds_S=dict(recorder='maps', from_student=True),
            preds_T=dict(recorder='maps', from_student=False))))
