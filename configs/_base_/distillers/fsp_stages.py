# FSP between the stem and the three stages of a CIFAR ResNet: the stage before
# the training, without the task's own loss, with RepDistiller's weight.
calculate_student_loss = False
stages = dict(
    type='kdvit_mm.ModuleTuple',
    parts=[
        dict(source='backbone.relu'),
        dict(source='backbone.layer1'),
        dict(source='backbone.layer2'),
        dict(source='backbone.layer3'),
    ])
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(stages=stages),
    teacher_recorders=dict(stages=stages),
    distill_losses=dict(loss_fsp=dict(type='kdvit_mm.FSPLoss')),
    loss_forward_mappings=dict(
        loss_fsp=dict(
            preds_S=dict(recorder='stages', from_student=True),
            preds_T=dict(recorder='stages', from_student=False))))
