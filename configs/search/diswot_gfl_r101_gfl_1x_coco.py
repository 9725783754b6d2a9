# DisWOT among GFLs by depth and width of the backbone, within a third of the
# parameters of the teacher.
_base_ = [
    '../students/mmdet/gfl_r18_fpn_1x_coco.py',
    '../_base_/runtime/plugin.py',
]
model = dict(
    _delete_=True,
    type='kdvit_mm.DisWOT',
    teacher=dict(
        cfg_path='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        backbone=dict(init_cfg=None)),
    draws=4,
    maps='backbone',
    classifier='bbox_head.gfl_cls',
    mutator=dict(
        type='kdvit_mm.ConfigMutator',
        config='{{ fileDirname }}/../students/mmdet/gfl_r18_fpn_1x_coco.py',
        choices=dict(
            depth={
                str(depth): {
                    'backbone.depth': depth,
                    # Of another width nothing is pre-trained.
                    'backbone.init_cfg': None,
                }
                for depth in (18, 34)
            },
            width={
                str(width): {
                    'backbone.base_channels': width,
                    'backbone.stem_channels': width,
                    'neck.in_channels': [width * 2**i for i in range(4)],
                }
                for width in (32, 40, 48, 56, 64)
            })))
train_cfg = dict(
    _delete_=True,
    type='kdvit_mm.StudentSearchLoop',
    max_epochs=4,
    num_candidates=10,
    top_k=4,
    num_mutation=3,
    num_crossover=3,
    mutate_prob=0.5,
    constraints_range=dict(params=(0, 17)))
train_dataloader = dict(batch_size=16)
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
