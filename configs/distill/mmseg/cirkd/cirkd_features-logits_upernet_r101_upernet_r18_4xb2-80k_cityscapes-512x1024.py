_base_ = [
    '../../../_base_/pairs/upernet_r101_upernet_r18_4xb2-80k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/cirkd_features_logits.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_memory.update(student_channels=512)
model = dict(distiller=distiller)
