# ReviewKD at three stages and the pooled features, of ResNet-32x4 before the
# last ReLUs and ResNet-8x4 after them, with the paper's values for CIFAR-100:
# the weight grows over 20 epochs.
schedules = [
    dict(loss='loss_reviewkd', type='linear', start_factor=0.05, end=19),
]
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        stages=dict(
            type='kdvit_mm.ModuleTuple',
            parts=[
                dict(source='backbone.layer1'),
                dict(source='backbone.layer2'),
                dict(source='backbone.layer3'),
                dict(source='neck.gap'),
            ])),
    teacher_recorders=dict(
        stages=dict(
            type='kdvit_mm.ModuleTuple',
            parts=[
                dict(source='backbone.layer1.4.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer2.4.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer3.4.relu', inputs=True, record_idx=1),
                dict(source='neck.gap'),
            ])),
    connectors=dict(
        review=dict(
            type='kdvit_mm.ReviewKDConnector',
            in_channels=[64, 128, 256, 256],
            out_channels=[64, 128, 256, 256],
            mid_channels=256)),
    distill_losses=dict(
        loss_reviewkd=dict(type='kdvit_mm.HCLLoss', loss_weight=5)),
    loss_forward_mappings=dict(
        loss_reviewkd=dict(
            preds_S=dict(
                recorder='stages', from_student=True, connector='review'),
            preds_T=dict(recorder='stages', from_student=False))))
