# SSKD on ResNet-32x4 and ResNet-8x4 with the official values. The loss has the
# task's own in it, of the views that are not rotated.
calculate_student_loss = False
preprocessor = 'kdvit_mm.RotatedViewsDataPreprocessor'
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        pooled=dict(type='ModuleOutputs', source='neck'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        pooled=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_sskd=dict(
            type='kdvit_mm.SSKDLoss',
            student_channels=256,
            teacher_channels=256,
            head_ckpt='stage://sskd_head_resnet32x4_60e_cifar100',
            tau=4,
            tf_tau=4,
            ss_tau=0.5,
            tf_ratio=1,
            ss_ratio=0.75,
            ce_weight=0.1,
            kd_weight=0.9,
            tf_weight=2.7,
            ss_weight=10)),
    loss_forward_mappings=dict(
        loss_sskd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            feats_S=dict(recorder='pooled', from_student=True),
            feats_T=dict(recorder='pooled', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
