"""Step time and memory of distillation against its lower bound, in one run.

The bound is a step of the student alone plus a plain forward of the teacher
up to the last recorded module. Every row is measured in turn, over and over,
so that whatever else the machine does hits all of them; ratios are medians of
the ratios within a round. With --levels the bound is a step that distils all
pyramid levels, and the rows are what the choice among them adds to it.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from prettytable import PrettyTable

from kdvit_mm.benchmark.timing import tensor_memory, time_in_turn
from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.models.utils.cfg_path import resolve_cfg_path
from kdvit_mm.registry import MODELS
from kdvit_mm.selection import AllLevels, LevelSelector
from kdvit_mm.selection.controller import find_controller
from kdvit_mm.selection.probes import image_losses

OPTIONS: dict[str, dict[str, Any]] = {
    'LeanTeacherDistill': {},
    '  fold_batch_norm': {'fold_batch_norm': True},
    '  channels_last': {'channels_last': True},
    '  inference_mode': {'inference_mode': True},
    '  fold + channels_last': {
        'fold_batch_norm': True,
        'channels_last': True,
    },
    '  fold + channels_last + compile': {
        'fold_batch_norm': True,
        'channels_last': True,
        'compile_teacher': True,
    },
    '  fold + channels_last + bfloat16': {
        'fold_batch_norm': True,
        'channels_last': True,
        'autocast_dtype': 'bfloat16',
    },
}
LEVELS = Path(__file__).parents[2] / 'configs/_base_/distillers'
#: As in configs/_base_/runtime/level_selection.py.
UPDATE_INTERVAL = 64
ALL_LEVELS = 'all levels (bound)'
POLICY = 'policy: choices and updates, per step'
# The step that warms up writes the records.
CACHE = '  cache, images seen before'
STUDENT, BOUND = 'student alone', 'student + teacher to last record (bound)'


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--teacher', default='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'
    )
    parser.add_argument(
        '--student', default='mmdet::gfl/gfl_r50_fpn_1x_coco.py'
    )
    parser.add_argument('--student-depth', type=int, default=18)
    parser.add_argument('--size', type=int, nargs=2, default=[320, 512])
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--levels', action='store_true', help='time the choice of levels'
    )
    parser.add_argument(
        '--skip', nargs='*', default=[], help='names of rows to leave out'
    )
    return parser.parse_args()


def read_model(path: str) -> dict:
    """Model of a config file, without pre-trained weights."""
    model = resolve_cfg_path({'cfg_path': path})
    model.backbone.pop('init_cfg', None)
    return model


def make_batch(number: int, size: list[int], device: str) -> dict:
    """Random images with seven boxes each."""
    height, width = size
    samples = []
    for index in range(number):
        corner = torch.rand(7, 2) * torch.tensor([width, height]) * 0.6
        side = 16 + torch.rand(7, 2) * torch.tensor([width, height]) * 0.3
        sample = DetDataSample(
            metainfo={
                'img_id': index,
                'img_shape': (height, width),
                'ori_shape': (height, width),
                'scale_factor': (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + side], 1).to(device),
            labels=torch.randint(80, (7,), device=device),
        )
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        samples.append({'inputs': image, 'data_samples': sample})
    return pseudo_collate(samples)


def distiller() -> dict:
    """CWD on the five maps of the FPN."""
    record = {'fpn': {'type': 'ModuleOutputs', 'source': 'neck'}}
    names = [f'loss_p{level}' for level in range(3, 8)]
    return {
        'type': 'ConfigurableDistiller',
        'student_recorders': record,
        'teacher_recorders': record,
        'distill_losses': {
            name: {
                'type': 'mmrazor.ChannelWiseDivergence',
                'tau': 1,
                'loss_weight': 10,
            }
            for name in names
        },
        'loss_forward_mappings': {
            name: {
                'preds_S': {
                    'recorder': 'fpn', 'from_student': True, 'data_idx': i
                },
                'preds_T': {
                    'recorder': 'fpn', 'from_student': False, 'data_idx': i
                },
            }
            for i, name in enumerate(names)
        },
    }  # fmt: skip


def build_pair(args: argparse.Namespace) -> tuple[BaseModel, BaseModel]:
    """Student and teacher."""
    student_cfg, teacher_cfg = (
        read_model(args.student),
        read_model(args.teacher),
    )
    if args.student_depth != student_cfg['backbone']['depth']:
        student_cfg['backbone']['depth'] = args.student_depth
        student_cfg['neck']['in_channels'] = [64, 128, 256, 512]
    teacher = MODELS.build(teacher_cfg).to(args.device)
    student = MODELS.build(student_cfg).to(args.device).train()
    student.init_weights()
    return student, teacher.eval()


def train(model: BaseModel, batch: dict) -> None:
    """A whole training step."""
    data = model.data_preprocessor(batch, True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-5)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def distillation(kind: str, device: str, **options: Any) -> BaseModel:
    """An algorithm around models that are built already, in train mode."""
    config = {'type': kind, '_scope_': 'kdvit_mm', **options}
    model = MODELS.build(config).to(device)
    # mmrazor's returns nothing.
    model.train()
    return model


def build_steps(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """One function per row, each making a whole training step."""
    student, teacher = build_pair(args)
    batch = make_batch(args.batch, args.size, args.device)

    def bound() -> None:
        images = student.data_preprocessor(batch, True)['inputs']
        with torch.no_grad():
            teacher.extract_feat(images)
        train(student, batch)

    def algorithm(kind: str, **options: Any) -> BaseModel:
        # Student and teacher are shared, so that all rows fit in memory;
        # the options change the teacher, which therefore is a copy.
        own = copy.deepcopy(teacher) if options else teacher
        return distillation(
            kind,
            args.device,
            architecture=student,
            teacher=own,
            distiller=distiller(),
            **options,
        )

    steps: dict[str, Callable[[], None]] = {
        STUDENT: partial(train, student, batch),
        BOUND: bound,
    }
    models = {
        name: algorithm(LeanTeacherDistill.__name__, **options)
        for name, options in (
            OPTIONS | {CACHE: {'cache': {'dir': args.folder}}}
        ).items()
        if name.strip() not in args.skip
    }
    for kind in ('SingleTeacherDistill', 'FpnTeacherDistill'):
        models[f"mmrazor's {kind}"] = algorithm(kind)
    for name, model in models.items():
        steps[name] = partial(train, model, batch)
    return steps


def build_level_steps(
    args: argparse.Namespace,
) -> dict[str, Callable[[], None]]:
    """Training steps with a policy, and the parts that it adds to them."""
    student, teacher = build_pair(args)
    batch = make_batch(args.batch, args.size, args.device)
    config = Config.fromfile(LEVELS / 'levels_cwd_fpn.py')
    model = distillation(
        LeanTeacherDistill.__name__,
        args.device,
        architecture=student,
        teacher=teacher,
        distiller=config.distiller,
    )
    controller = find_controller(model)
    policy = controller.selector
    all_levels = AllLevels(policy.num_levels)

    def step(selector: LevelSelector, is_rewarded: bool) -> None:
        controller.selector = selector
        controller.prepare((), has_probes=False, records=is_rewarded)
        train(model, batch)

    step(policy, True)
    done = controller.after_step(None)
    assert done is not None
    outcome = done[1]
    valid = torch.ones_like(outcome.mask[:, 0])

    def probe() -> None:
        image_losses(model, batch)

    def choose_and_update() -> None:
        for _ in range(UPDATE_INTERVAL):
            policy.plan(outcome.state)
            policy.observe(outcome.quality, valid)
        policy.learn()

    return {
        ALL_LEVELS: partial(step, all_levels, False),
        '  with the aligned reward': partial(step, all_levels, True),
        'policy: step on its choice': partial(step, policy, True),
        POLICY: choose_and_update,
        'measured reward: one of two probes': probe,
    }


def measure(args: argparse.Namespace) -> None:
    """Measures all rows and prints the table."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    steps = (build_level_steps if args.levels else build_steps)(args)
    seconds = time_in_turn(steps, args.rounds, args.device)
    if args.levels:
        seconds[POLICY] = [s / UPDATE_INTERVAL for s in seconds[POLICY]]
    bounds = seconds[ALL_LEVELS if args.levels else BOUND]
    table = PrettyTable()
    table.field_names = ['step', 'seconds', 'ratio to bound', 'peak MiB']
    table.align = 'r'
    table.align['step'] = 'l'
    for name, step in steps.items():
        ratios = [
            own / bound
            for own, bound in zip(seconds[name], bounds, strict=True)
        ]
        table.add_row([
            name,
            f'{median(seconds[name]):.3f}',
            f'{median(ratios):.3f}',
            f'{tensor_memory(step, args.device):.0f}',
        ])  # fmt: skip
    height, width = args.size
    print(
        f'torch {torch.__version__}, {torch.get_num_threads()} threads, '
        f'{args.device}, batch {args.batch} of {height} x {width}, '
        f'{args.rounds} rounds'
    )
    print(table)


def main() -> None:
    """Measures with a folder for the records of the row with a cache."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as args.folder:
        measure(args)


if __name__ == '__main__':
    main()
