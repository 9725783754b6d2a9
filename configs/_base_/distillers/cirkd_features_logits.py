# CIRKD on the features that a segmentor classifies, 128 channels under 512,
# beside KD on the class maps, with the official values for Cityscapes.
_base_ = './kd_class_maps.py'
distiller = dict(
    student_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout'),
        samples=dict(type='ModuleInputs', source='')),
    teacher_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.dropout')),
    distill_losses=dict(
        loss_mini_batch=dict(
            type='kdvit_mm.CIRKDMiniBatchLoss', tau=0.1, loss_weight=1),
        loss_memory=dict(
            type='kdvit_mm.CIRKDMemoryLoss',
            student_channels=128,
            teacher_channels=512,
            num_classes=19,
            pixel_memory=20000,
            region_memory=2000,
            pixel_contrast=4096,
            region_contrast=1024,
            tau=0.1,
            pixel_weight=0.1,
            region_weight=0.1)),
    loss_forward_mappings=dict(
        loss_mini_batch=dict(
            preds_S=dict(recorder='features', from_student=True),
            preds_T=dict(recorder='features', from_student=False)),
        loss_memory=dict(
            preds_S=dict(recorder='features', from_student=True),
            preds_T=dict(recorder='features', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1))))
# The head of the memory loss has batch norm over all ranks, as in the
# official code.
sync_bn = 'torch'
