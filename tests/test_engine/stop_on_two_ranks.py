"""One rank of a training whose distillation stops; run by its test."""

import sys

import torch
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from kdvit_mm.registry import MODELS
from tests import tiny

CONNECTOR = dict(
    type='ConvModuleConnector', in_channel=8, out_channel=16, act_cfg=None
)
SIDES = dict(
    preds_S=dict(recorder='fpn', from_student=True),
    preds_T=dict(recorder='fpn', from_student=False),
)


def main(store: str, rank: int) -> None:
    init_dist(
        'pytorch',
        backend='gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=2,
    )
    torch.manual_seed(0)
    loss = dict(type='CWDLoss')
    wise = dict(type='LevelWise', num_levels=5, loss=loss, connector=CONNECTOR)
    model = MODELS.build(
        tiny.algorithm(
            'LeanTeacherDistill',
            architecture=tiny.gfl(8, fpn=8),
            teacher=tiny.gfl(16),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    fpn=dict(type='ModuleOutputs', source='neck')
                ),
                teacher_recorders=dict(
                    fpn=dict(type='ModuleOutputs', source='neck')
                ),
                connectors=dict(p3=CONNECTOR),
                distill_losses=dict(loss_p3=loss, loss_all=wise),
                loss_forward_mappings=dict(
                    loss_p3={
                        'preds_S': dict(
                            SIDES['preds_S'], data_idx=0, connector='p3'
                        ),
                        'preds_T': dict(SIDES['preds_T'], data_idx=0),
                    },
                    loss_all=SIDES,
                ),
            ),
        )
    )
    wrapped = MMDistributedDataParallel(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-3))
    mappings = model.distiller.loss_forward_mappings
    for left in (('loss_p3', 'loss_all'), ('loss_all',), ('loss_p3',), ()):
        model.distiller.loss_forward_mappings = {
            name: mappings[name] for name in left
        }
        model.distillation_stopped = not left
        # DDP fails in the second of them where a gradient is missing.
        for _ in range(2):
            losses = wrapped.train_step(
                tiny.detection_batch(size=64), optimizer
            )
        found = {name for name in losses if name.startswith('distill.loss_')}
        idle = set() if len(left) == 2 else {'distill.loss_idle'}
        assert found == {f'distill.{name}' for name in left} | idle, found
        for name in idle:
            assert losses[name] == 0


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
