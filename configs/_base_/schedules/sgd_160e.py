# The schedule of TAKD's code, with drops after a half and three quarters, as
# its authors' trainer means to (its test for them is never true).
_base_ = './sgd_240e.py'
train_cfg = dict(max_epochs=160)
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=1e-4))
param_scheduler = dict(milestones=[80, 120])
auto_scale_lr = dict(base_batch_size=128)
