_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_deeplabv3_r18-d8_4xb4-40k_camvid-360x360.py',  # noqa: E501
    '../../../_base_/distillers/cirkd_features_logits.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_memory.update(num_classes=11, ignore_index=11)
model = dict(distiller=distiller)
