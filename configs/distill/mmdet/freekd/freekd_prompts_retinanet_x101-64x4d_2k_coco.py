_base_ = './freekd_prompts_retinanet_r101_2k_coco.py'
model = dict(
    architecture=dict(
        cfg_path=  # noqa: E251
        'mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py'))
