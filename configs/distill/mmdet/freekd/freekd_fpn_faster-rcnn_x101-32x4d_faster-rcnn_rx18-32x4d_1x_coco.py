_base_ = [
    '../../../_base_/pairs/faster-rcnn_x101-32x4d_faster-rcnn_rx18-32x4d_1x_coco.py',  # noqa: E501
    '../../../_base_/distillers/freekd_fpn_two_stage.py',
]
distiller = _base_.distiller
distiller.distill_losses.loss_freekd.prompt_ckpt = (
    'stage://freekd_prompts_faster-rcnn_x101-32x4d_2k_coco')
model = dict(distiller=distiller)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
