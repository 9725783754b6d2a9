_base_ = './freekd_prompts_retinanet_r101_2k_coco.py'
model = dict(
    architecture=dict(
        cfg_path='mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_2x_coco.py'))
