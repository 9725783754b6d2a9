_base_ = [
    '../../_base_/models/deeplabv3_r18-d8.py',
    '../../_base_/datasets/camvid_segmentation-480x360.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py',
]
data_preprocessor = dict(
    size=_base_.crop_size, seg_pad_val=_base_.ignore_index)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=11, ignore_index=_base_.ignore_index),
    auxiliary_head=dict(num_classes=11, ignore_index=_base_.ignore_index))
