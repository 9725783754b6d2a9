# FreeKD on last stages of 64 and 256 channels.
_base_ = './freekd_layer4.py'
distiller = dict(
    connectors=dict(align=dict(in_channel=64, out_channel=256)),
    distill_losses=dict(loss_freekd=dict(channels=[256], num_tokens=2)))
