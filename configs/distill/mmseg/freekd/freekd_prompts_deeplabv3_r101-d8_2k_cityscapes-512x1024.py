_base_ = './freekd_prompts_pspnet_r101-d8_2k_cityscapes-512x1024.py'
model = dict(
    architecture=dict(
        cfg_path=  # noqa: E251
        'mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py'))
