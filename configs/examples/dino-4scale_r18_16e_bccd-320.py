# mmdet's DINO on blood cells, with a ResNet-18, half of the layers and a
# hundred queries, from random weights.
_base_ = [
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
import mmengine.hub

model = mmengine.hub.get_config(
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py').model
model.backbone.update(
    depth=18,
    frozen_stages=-1,
    norm_eval=False,
    norm_cfg=dict(type='BN', requires_grad=True),
    init_cfg=None)
model.neck.in_channels = [128, 256, 512]
model.encoder.num_layers = model.decoder.num_layers = 3
model.num_queries = model.test_cfg.max_per_img = 100
model.bbox_head.num_classes = 3
model.data_preprocessor.pad_size_divisor = 32
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=0.1, norm_type=2))
