# The second generation.
_base_ = './ban-1_head_gfl_r18-w0.125_gfl_r18-w0.125_10e_digits-224.py'
teacher = 'ban-1_head_gfl_r18-w0.125_gfl_r18-w0.125_10e_digits-224/student'
model = dict(teacher_ckpt=f'stage://{teacher}')
randomness = dict(seed=2)
