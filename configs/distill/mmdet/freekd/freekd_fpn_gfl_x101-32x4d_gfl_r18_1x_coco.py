_base_ = [
    '../../../_base_/pairs/gfl_x101-32x4d_gfl_r18_1x_coco.py',
    '../../../_base_/distillers/freekd_fpn.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_freekd.prompt_ckpt = (
    'stage://freekd_prompts_gfl_x101-32x4d_2k_coco')
model = dict(distiller=distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
