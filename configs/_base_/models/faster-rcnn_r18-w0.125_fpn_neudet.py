_base_ = './faster-rcnn_r18-w0.125_fpn_small.py'
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
