# For runs of a few hundred iterations.
_base_ = './level_selection.py'
level_selection = dict(update_interval=16, probe_interval=20)
