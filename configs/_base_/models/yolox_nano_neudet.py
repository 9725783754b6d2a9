_base_ = './yolox_nano_coco.py'
model = dict(bbox_head=dict(num_classes=6))
