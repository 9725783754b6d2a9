_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_deeplabv3_r18-d8_4xb4-80k_ade20k-512x512.py',  # noqa: E501
    '../../../_base_/distillers/cirkd_features_logits.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_memory.update(num_classes=150)
model = dict(distiller=distiller)
