# The second generation.
_base_ = './ban-1_logits_resnet18-w0.0625_resnet18-w0.0625_10e_digits-32.py'
teacher = 'ban-1_logits_resnet18-w0.0625_resnet18-w0.0625_10e_digits-32/student'
model = dict(teacher_ckpt=f'stage://{teacher}')
randomness = dict(seed=2)
