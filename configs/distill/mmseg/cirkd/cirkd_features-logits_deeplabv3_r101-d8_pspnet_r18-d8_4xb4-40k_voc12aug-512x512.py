_base_ = [
    '../../../_base_/pairs/deeplabv3_r101-d8_pspnet_r18-d8_4xb4-40k_voc12aug-512x512.py',  # noqa: E501
    '../../../_base_/distillers/cirkd_features_logits.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_memory.update(
    num_classes=21, pixel_weight=0.01, region_weight=0.01)
model = dict(distiller=distiller)
