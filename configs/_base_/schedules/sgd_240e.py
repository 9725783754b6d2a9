# The schedule of most papers on CIFAR-100. MobileNets and ShuffleNets have a
# learning rate of 0.01.
train_cfg = dict(
    type='mmengine.EpochBasedTrainLoop', max_epochs=240, val_interval=10)
val_cfg = dict(type='mmengine.ValLoop')
test_cfg = dict(type='mmengine.TestLoop')
optim_wrapper = dict(
    type='mmengine.OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(
    type='mmengine.MultiStepLR',
    by_epoch=True,
    milestones=[150, 180, 210],
    gamma=0.1)
auto_scale_lr = dict(enable=False, base_batch_size=64)
