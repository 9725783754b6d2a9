_base_ = [
    '../_base_/pairs/pspnet_r50_fcn_r18-w0.125_4k_ccp-160.py',
    '../_base_/distillers/freekd_layer4_r50.py',
]
prompts = 'freekd_prompts_pspnet_r50-d8_200_ccp-160'
model = dict(distiller=_base_.distiller)
model['distiller']['distill_losses']['loss_freekd']['prompt_ckpt'] = (
    f'stage://{prompts}')
