# MGD on the last stage of a segmentor's ResNet-18 and ResNet-101 beside CWD on
# the logits, which the official code for segmentation has built in.
_base_ = './cwd_logits.py'
distiller = dict(
    student_recorders=dict(
        layer4=dict(type='ModuleOutputs', source='backbone.layer4')),
    teacher_recorders=dict(
        layer4=dict(type='ModuleOutputs', source='backbone.layer4')),
    connectors=dict(
        generator=dict(
            type='kdvit_mm.MGDGenerator',
            student_channels=512,
            teacher_channels=2048,
            lambda_mgd=0.75)),
    distill_losses=dict(
        loss_mgd=dict(type='kdvit_mm.MGDLoss', alpha_mgd=2e-5)),
    loss_forward_mappings=dict(
        loss_mgd=dict(
            preds_S=dict(
                recorder='layer4', from_student=True, connector='generator'),
            preds_T=dict(recorder='layer4', from_student=False))))
