# For runs of a few hundred iterations.
_base_ = './level_selection.py'
level_selection = dict(warmup=0, update_interval=8, probe_interval=20)
