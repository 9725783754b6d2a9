_base_ = [
    '../../../_base_/pairs/upernet_r101_upernet_r18_4xb4-80k_ade20k-512x512.py',  # noqa: E501
    '../../../_base_/distillers/cirkd_features_logits.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_memory.update(
    student_channels=512, num_classes=150)
model = dict(distiller=distiller)
