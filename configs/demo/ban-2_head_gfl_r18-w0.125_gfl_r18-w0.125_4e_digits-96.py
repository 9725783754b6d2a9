# The second generation.
_base_ = './ban-1_head_gfl_r18-w0.125_gfl_r18-w0.125_4e_digits-96.py'
teacher = 'ban-1_head_gfl_r18-w0.125_gfl_r18-w0.125_4e_digits-96/student'
model = dict(teacher_ckpt=f'stage://{teacher}')
randomness = dict(seed=2)
