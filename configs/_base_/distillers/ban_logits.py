# The loss of born-again networks: the labels, and the probabilities of the
# generation before, as they are.
_base_ = './kd_logits.py'
ce_weight = 1
distiller = dict(distill_losses=dict(loss_kd=dict(tau=1, loss_weight=1)))
