# CWD on the levels of a five-map FPN that a policy chooses for each image.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        pyramid=dict(type='FPNLevelSelection', source='neck'),
        inputs=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(
        pyramid=dict(type='FPNLevelSelection', source='neck')),
    distill_losses=dict(
        loss_levels=dict(
            type='kdvit_mm.SelectedLevelsLoss',
            num_levels=5,
            # The levels' rewards add up: later ones would only add noise.
            selector=dict(type='PPOLevels', lambda_cost=0.3, gamma=0),
            loss=dict(type='kdvit_mm.CWDLoss', tau=1, loss_weight=10))),
    loss_forward_mappings=dict(
        loss_levels=dict(
            preds_S=dict(recorder='pyramid', from_student=True),
            preds_T=dict(recorder='pyramid', from_student=False),
            data_samples=dict(
                recorder='inputs', from_student=True, data_idx=1))))
