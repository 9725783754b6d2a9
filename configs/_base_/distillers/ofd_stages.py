# OFD at three stages before their last ReLU, of ResNet-32x4 and ResNet-8x4,
# with the paper's weights for CIFAR-100.
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        stages=dict(
            type='kdvit_mm.ModuleTuple',
            parts=[
                dict(source='backbone.layer1.0.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer2.0.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer3.0.relu', inputs=True, record_idx=1),
            ])),
    teacher_recorders=dict(
        stages=dict(
            type='kdvit_mm.ModuleTuple',
            parts=[
                dict(source='backbone.layer1.4.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer2.4.relu', inputs=True, record_idx=1),
                dict(source='backbone.layer3.4.relu', inputs=True, record_idx=1),
            ]),
        norm1=dict(type='kdvit_mm.Module', source='backbone.layer1.4.bn2'),
        norm2=dict(type='kdvit_mm.Module', source='backbone.layer2.4.bn2'),
        norm3=dict(type='kdvit_mm.Module', source='backbone.layer3.4.bn2')),
    connectors=dict(
        stage1=dict(
            type='ConvModuleConnector',
            in_channel=64,
            out_channel=64,
            norm_cfg=dict(type='BN'),
            act_cfg=None),
        stage2=dict(
            type='ConvModuleConnector',
            in_channel=128,
            out_channel=128,
            norm_cfg=dict(type='BN'),
            act_cfg=None),
        stage3=dict(
            type='ConvModuleConnector',
            in_channel=256,
            out_channel=256,
            norm_cfg=dict(type='BN'),
            act_cfg=None)),
    distill_losses=dict(
        loss_stage1=dict(type='kdvit_mm.OFDLoss', loss_weight=2.5e-4),
        loss_stage2=dict(type='kdvit_mm.OFDLoss', loss_weight=5e-4),
        loss_stage3=dict(type='kdvit_mm.OFDLoss', loss_weight=1e-3)),
    loss_forward_mappings=dict(
        loss_stage1=dict(
            preds_S=dict(
                recorder='stages',
                from_student=True,
                data_idx=0,
                connector='stage1'),
            preds_T=dict(
                recorder='stages', from_student=False, data_idx=0),
            norm_T=dict(recorder='norm1', from_student=False)),
        loss_stage2=dict(
            preds_S=dict(
                recorder='stages',
                from_student=True,
                data_idx=1,
                connector='stage2'),
            preds_T=dict(
                recorder='stages', from_student=False, data_idx=1),
            norm_T=dict(recorder='norm2', from_student=False)),
        loss_stage3=dict(
            preds_S=dict(
                recorder='stages',
                from_student=True,
                data_idx=2,
                connector='stage3'),
            preds_T=dict(
                recorder='stages', from_student=False, data_idx=2),
            norm_T=dict(recorder='norm3', from_student=False))))
