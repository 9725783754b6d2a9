# mmdet's GFL on blood cells. Its backbone starts from the checkpoint that the
# environment variable BACKBONE_WEIGHTS names, a file or
# torchvision://resnet50, else from random weights.
_base_ = [
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_16e.py',
    '../_base_/runtime/det_runtime.py',
]
import mmengine.hub

weights = '{{$BACKBONE_WEIGHTS:random}}'
model = mmengine.hub.get_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py').model
model.backbone.init_cfg = None if weights == 'random' else dict(
    type='Pretrained', checkpoint=weights)
model.backbone.frozen_stages = -1
model.backbone.norm_eval = False
model.bbox_head.num_classes = 3
# Cells from 10 px on, on P3 to P7.
model.bbox_head.anchor_generator.octave_base_scale = 2
optim_wrapper = dict(optimizer=dict(lr=2e-4))
