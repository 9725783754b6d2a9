# As cirkd_features_logits_small.py, for CamVid's label of pixels without a class.
_base_ = './cirkd_features_logits_small.py'
distiller = dict(distill_losses=dict(loss_memory=dict(ignore_index=11)))
