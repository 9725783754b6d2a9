# The second generation.
_base_ = './ban-1_head_gfl_r18_gfl_r18_1x_coco.py'
teacher = 'ban-1_head_gfl_r18_gfl_r18_1x_coco/student'
model = dict(teacher_ckpt=f'stage://{teacher}')
randomness = dict(seed=2)
