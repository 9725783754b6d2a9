_base_ = [
    '../models/yolox_w0.125_coco.py',
    '../datasets/coco256_detection.py',
    '../schedules/adamw_100e.py',
    '../runtime/det_runtime.py',
]
import mmengine

teacher = 'yolox_nano_100e_coco256-320'
model = dict(
    _delete_=True,
    _scope_='kdvit_mm',
    type='LeanTeacherDistill',
    architecture=_base_.model,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../models/yolox_nano_coco.py').model,
    teacher_ckpt=f'stage://{teacher}')
