# MGD on last stages of 64 and 2048 channels.
_base_ = './mgd_layer4_logits.py'
distiller = dict(connectors=dict(generator=dict(student_channels=64)))
