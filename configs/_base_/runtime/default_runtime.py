_base_ = './plugin.py'

default_hooks = dict(
    timer=dict(type='mmengine.IterTimerHook'),
    logger=dict(type='mmengine.LoggerHook', interval=10),
    param_scheduler=dict(type='mmengine.ParamSchedulerHook'),
    checkpoint=dict(
        type='mmengine.CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='mmengine.DistSamplerSeedHook'))
custom_hooks = [
    dict(type='kdvit_mm.EpochSeedHook'),
    dict(type='kdvit_mm.DistillWatchHook'),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0)

vis_backends = [dict(type='mmengine.LocalVisBackend')]
log_processor = dict(type='mmengine.LogProcessor', window_size=20)
log_level = 'INFO'
load_from = None
resume = False
