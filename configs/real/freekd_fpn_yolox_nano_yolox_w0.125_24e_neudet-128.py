_base_ = [
    '../_base_/pairs/yolox_nano_yolox_w0.125_24e_neudet-128.py',
    '../_base_/distillers/freekd_pafpn_small.py',
]
prompts = 'freekd_prompts_yolox_nano_2e_neudet-128'
model = dict(distiller=_base_.distiller)
model['distiller']['distill_losses']['loss_freekd']['prompt_ckpt'] = (
    f'stage://{prompts}')
