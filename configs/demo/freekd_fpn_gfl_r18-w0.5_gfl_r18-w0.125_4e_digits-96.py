_base_ = [
    '../_base_/pairs/gfl_r18-w0.5_gfl_r18-w0.125_4e_digits-96.py',
    '../_base_/distillers/freekd_fpn_small.py',
]
prompts = 'freekd_prompts_gfl_r18-w0.5_1e_digits-96'
model = dict(distiller=_base_.distiller)
model['distiller']['distill_losses']['loss_freekd']['prompt_ckpt'] = (
    f'stage://{prompts}')
