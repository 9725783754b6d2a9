# Written by tools/misc/generate_configs.py
_base_ = [
    '../_base_/pairs/resnet18-w0.25_resnet18-w0.0625_10e_digits-32.py',
    '../_base_/distillers/ofd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
]
distiller.teacher_recorders.norm1.source = 'backbone.layer1.1.bn2'
distiller.connectors.stage1.in_channel = 4
distiller.connectors.stage1.out_channel = 16
distiller.distill_losses.loss_stage1.loss_weight = 0.000125
distiller.teacher_recorders.norm2.source = 'backbone.layer2.1.bn2'
distiller.connectors.stage2.in_channel = 8
distiller.connectors.stage2.out_channel = 32
distiller.distill_losses.loss_stage2.loss_weight = 0.00025
distiller.teacher_recorders.norm3.source = 'backbone.layer3.1.bn2'
distiller.connectors.stage3.in_channel = 16
distiller.connectors.stage3.out_channel = 64
distiller.distill_losses.loss_stage3.loss_weight = 0.0005
distiller.teacher_recorders.norm4 = dict(
    type='kdvit_mm.Module',
    source='backbone.layer4.1.bn2',
)
distiller.connectors.stage4 = dict(
    type='ConvModuleConnector',
    in_channel=32,
    out_channel=128,
    norm_cfg=dict(type='BN'),
    act_cfg=None,
)
distiller.distill_losses.loss_stage4 = dict(
    type='kdvit_mm.OFDLoss',
    loss_weight=0.001,
)
distiller.loss_forward_mappings.loss_stage4 = dict(
    preds_S=dict(
        recorder='stages',
        from_student=True,
        data_idx=3,
        connector='stage4',
    ),
    preds_T=dict(recorder='stages', from_student=False, data_idx=3),
    norm_T=dict(recorder='norm4', from_student=False),
)
model = dict(distiller=distiller)
