_base_ = './pspnet_r50-d8_ccp.py'
model = dict(
    data_preprocessor=dict(seg_pad_val=11), decode_head=dict(ignore_index=11))
