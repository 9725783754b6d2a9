# DisWOT among 12 ResNets for the digits, by depth and width.
_base_ = './resnet8-w0.25_10e_digits-32.py'
import mmengine

model = dict(
    _delete_=True,
    type='kdvit_mm.DisWOT',
    # One draw of the weights ranks these students nearly at random.
    draws=32,
    teacher=mmengine.Config.fromfile(
        '{{ fileDirname }}/../_base_/models/resnet18-w0.25_cifar_small.py').model,
    mutator=dict(
        type='kdvit_mm.ConfigMutator',
        config='{{ fileDirname }}/resnet8-w0.25_10e_digits-32.py',
        choices=dict(
            depth={
                str(depth): {'backbone.depth': depth}
                for depth in (8, 14, 20)
            },
            width={
                str(width): {
                    'backbone.base_channels': width,
                    'backbone.stem_channels': width,
                    'head.in_channels': 4 * width,
                }
                for width in (2, 4, 8, 12)
            })))
train_cfg = dict(
    _delete_=True,
    type='kdvit_mm.StudentSearchLoop',
    max_epochs=5,
    num_candidates=10,
    top_k=4,
    num_mutation=4,
    num_crossover=4,
    constraints_range=dict(params=(0, 0.05)))
# Nothing is validated.
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
