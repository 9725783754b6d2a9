_base_ = [
    '../../../_base_/pairs/pspnet_r101-d8_pspnet_r18-d8_4xb2-40k_cityscapes-512x1024.py',  # noqa: E501
    '../../../_base_/distillers/freekd_layer4.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_freekd.prompt_ckpt = (
    'stage://freekd_prompts_pspnet_r101-d8_2k_cityscapes-512x1024')
model = dict(distiller=distiller)
