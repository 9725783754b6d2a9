_base_ = './yolox_w0.125_coco.py'
model = dict(bbox_head=dict(num_classes=6))
