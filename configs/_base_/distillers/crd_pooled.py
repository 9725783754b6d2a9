# CRD on the pooled features of ResNet-32x4 and ResNet-8x4, with the paper's
# values for the 50,000 images of CIFAR-100.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        pooled=dict(type='ModuleOutputs', source='neck'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(
        pooled=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_crd=dict(
            type='kdvit_mm.CRDLoss',
            student_channels=256,
            teacher_channels=256,
            num_data=50000,
            loss_weight=0.8)),
    loss_forward_mappings=dict(
        loss_crd=dict(
            preds_S=dict(recorder='pooled', from_student=True, data_idx=0),
            preds_T=dict(recorder='pooled', from_student=False, data_idx=0),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
