# Written by tools/misc/generate_configs.py
_base_ = [
    '../../../_base_/pairs/resnet34_resnet18_8xb32_in1k.py',
    '../../../_base_/distillers/ofd_stages.py',
]
distiller = _base_.distiller
distiller.student_recorders.stages.parts = [
    dict(source='backbone.layer1.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.1.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.1.relu', inputs=True, record_idx=1),
]
distiller.teacher_recorders.stages.parts = [
    dict(source='backbone.layer1.2.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer2.3.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer3.5.relu', inputs=True, record_idx=1),
    dict(source='backbone.layer4.2.relu', inputs=True, record_idx=1),
]
distiller.teacher_recorders.norm1.source = 'backbone.layer1.2.bn2'
distiller.distill_losses.loss_stage1.loss_weight = 1.25e-05
distiller.teacher_recorders.norm2.source = 'backbone.layer2.3.bn2'
distiller.distill_losses.loss_stage2.loss_weight = 2.5e-05
distiller.teacher_recorders.norm3.source = 'backbone.layer3.5.bn2'
distiller.distill_losses.loss_stage3.loss_weight = 5e-05
distiller.teacher_recorders.norm4 = dict(
    type='kdvit_mm.Module',
    source='backbone.layer4.2.bn2',
)
distiller.connectors.stage4 = dict(
    type='ConvModuleConnector',
    in_channel=512,
    out_channel=512,
    norm_cfg=dict(type='BN'),
    act_cfg=None,
)
distiller.distill_losses.loss_stage4 = dict(
    type='kdvit_mm.OFDLoss',
    loss_weight=0.0001,
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
