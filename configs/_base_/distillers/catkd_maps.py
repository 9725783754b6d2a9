# CAT-KD, with the official values for ResNet-32x4 and ResNet-8x4.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        maps=dict(type='kdvit_mm.PooledMap', source='neck.gap'),
        fc=dict(type='kdvit_mm.Module', source='head.fc')),
    teacher_recorders=dict(
        maps=dict(type='kdvit_mm.PooledMap', source='neck.gap'),
        fc=dict(type='kdvit_mm.Module', source='head.fc')),
    distill_losses=dict(
        loss_catkd=dict(
            type='kdvit_mm.CATKDLoss', size=2, normalise=False, loss_weight=15)),
    loss_forward_mappings=dict(
        loss_catkd=dict(
            preds_S=dict(recorder='maps', from_student=True, data_idx=0),
            preds_T=dict(recorder='maps', from_student=False, data_idx=0),
            fc_S=dict(recorder='fc', from_student=True),
            fc_T=dict(recorder='fc', from_student=False))))
