_base_ = './default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=200),
    visualization=dict(type='mmseg.SegVisualizationHook'))
log_processor = dict(by_epoch=False)
visualizer = dict(
    type='mmseg.SegLocalVisualizer',
    vis_backends={{_base_.vis_backends}},
    name='visualizer')
