# Generation 2.
_base_ = './ban-1_logits_wrn-40-2_wrn-40-2_240e_cifar100.py'
teacher = 'ban-1_logits_wrn-40-2_wrn-40-2_240e_cifar100/student'
model = dict(teacher_ckpt=f'stage://{teacher}')
randomness = dict(seed=2)
