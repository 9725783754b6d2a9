_base_ = './gfl_r18-w0.125_fpn_small.py'
model = dict(bbox_head=dict(num_classes=6))
