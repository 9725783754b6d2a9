# FreeKD on last stages of 64 and 2048 channels.
_base_ = './freekd_layer4.py'
distiller = dict(
    connectors=dict(align=dict(in_channel=64)),
    distill_losses=dict(loss_freekd=dict(num_tokens=2)))
