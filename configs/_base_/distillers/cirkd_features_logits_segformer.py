# CIRKD on the maps of stride 4 that a SegFormer classifies, of 256 channels:
# as in the official code they are averaged over 2 x 2 pixels for the
# mini-batch, and the pixel queues are shorter.
_base_ = './cirkd_features_logits.py'
distiller = dict(
    connectors=dict(
        pool=dict(
            type='TorchNNConnector',
            module_name='AvgPool2d',
            module_args=dict(kernel_size=2, ceil_mode=True))),
    distill_losses=dict(
        loss_memory=dict(
            student_channels=256, teacher_channels=256, pixel_memory=2000)),
    loss_forward_mappings=dict(
        loss_mini_batch=dict(
            preds_S=dict(connector='pool'), preds_T=dict(connector='pool'))))
