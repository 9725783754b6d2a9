# CIRKD on features of 32 and 64 channels; queues of few classes and pixels.
_base_ = './cirkd_features_logits.py'
distiller = dict(
    distill_losses=dict(
        loss_memory=dict(
            student_channels=32,
            teacher_channels=64,
            num_classes=11,
            pixel_memory=2000,
            region_memory=200)))
