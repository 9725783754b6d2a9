# A classifier of CIFAR-100's images, which mmpretrain loads as RGB. An
# inheriting config names the backbone and the channels of its last map. It sets
# init_cfg=None for the head where mdistiller leaves it as torch initialises it.
model = dict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor',
        num_classes=100,
        # mdistiller's numbers times 255, on which its checkpoints rely.
        mean=[129.3105, 124.1085, 112.404],
        std=[68.2125, 65.4075, 70.4055],
        to_rgb=False),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=100,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)))
