_base_ = [
    '../../../_base_/pairs/retinanet_r101_retinanet_r50_2x_coco.py',
    '../../../_base_/distillers/freekd_fpn_retina.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_freekd.prompt_ckpt = (
    'stage://freekd_prompts_retinanet_r101_2k_coco')
model = dict(distiller=distiller)
optim_wrapper = dict(
    optimizer=dict(lr=0.02), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.001,
        by_epoch=False,
        begin=0,
        end=1000),
    _base_.param_scheduler[1],
]
