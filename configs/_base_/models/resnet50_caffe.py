# A ResNet-50 with ImageNet weights, whose stride is on the first convolution of
# a block, for images in RGB. The first stages and all batch norms stay as they
# are.
backbone = dict(
    depth=50,
    base_channels=64,
    frozen_stages=2,
    norm_cfg=dict(type='BN', requires_grad=False),
    norm_eval=True,
    style='caffe',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='data/weights/resnet50_imagenet_caffe_fp16.pth'))
