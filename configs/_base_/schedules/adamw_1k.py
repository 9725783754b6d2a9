# A short AdamW schedule in iterations for small models on the CPU.
max_iters = 1000
train_cfg = dict(
    type='mmengine.IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=500)
val_cfg = dict(type='mmengine.ValLoop')
test_cfg = dict(type='mmengine.TestLoop')
optim_wrapper = dict(
    type='mmengine.OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05))
param_scheduler = [
    dict(
        type='mmengine.LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=50),
    dict(
        type='mmengine.CosineAnnealingLR',
        by_epoch=False,
        T_max=max_iters,
        eta_min_ratio=0.01),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
