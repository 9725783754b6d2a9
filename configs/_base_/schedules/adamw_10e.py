# A short AdamW schedule for small models on the CPU.
max_epochs = 10
train_cfg = dict(
    type='mmengine.EpochBasedTrainLoop',
    max_epochs=max_epochs,
    val_interval=5)
val_cfg = dict(type='mmengine.ValLoop')
test_cfg = dict(type='mmengine.TestLoop')
optim_wrapper = dict(
    type='mmengine.OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(
        type='mmengine.LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=50),
    dict(
        type='mmengine.CosineAnnealingLR',
        by_epoch=True,
        T_max=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
