_base_ = [
    '../_base_/pairs/gfl_r50_gfl_r18-w0.125_24e_neudet-128.py',
    '../_base_/distillers/freekd_fpn_small.py',
]
prompts = 'freekd_prompts_gfl_r50_2e_neudet-128'
model = dict(distiller=_base_.distiller)
model['distiller']['distill_losses']['loss_freekd']['prompt_ckpt'] = (
    f'stage://{prompts}')
