# LSKD around MLLD, with the official values; ce_weight as in mlld_logits.py.
ce_weight = 0.2
preprocessor = 'kdvit_mm.TwoViewDataPreprocessor'
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        fc=dict(type='ModuleOutputs', source='head.fc'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(fc=dict(type='ModuleOutputs', source='head.fc')),
    distill_losses=dict(
        loss_lskd=dict(
            type='kdvit_mm.LogitStandardise',
            loss=dict(type='MLLDLoss', tau=2, loss_weight=9))),
    loss_forward_mappings=dict(
        loss_lskd=dict(
            preds_S=dict(recorder='fc', from_student=True),
            preds_T=dict(recorder='fc', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
