_base_ = [
    '../_base_/pairs/pspnet_r18-w0.5_fcn_r18-w0.125_1k_digits-128.py',
    '../_base_/distillers/freekd_layer4_small.py',
]
prompts = 'freekd_prompts_pspnet_r18-w0.5-d8_200_digits-128'
model = dict(distiller=_base_.distiller)
model['distiller']['distill_losses']['loss_freekd']['prompt_ckpt'] = (
    f'stage://{prompts}')
