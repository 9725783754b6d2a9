"""Time, memory and memory traffic of every distill loss, in one run.

Forward and backward of the distillers of all methods for detection, each with
its losses and connectors, on the five maps of an FPN, of shape (2, 256, H, W)
and strides 8 to 128, on the outputs of a GFL head and on 1024 proposals;
of losses for segmentors on class maps of crops, at full size with 19 classes
and at stride 4 with 150, and on maps of 512 channels and stride 8; and of
losses for classifiers on logits of shape (256, 1000) and maps of shape
(8, 512, 64, 64). Classes that mmrazor has, too, are compared with its own,
FGD's masks and CIRKD's pairs of images with loops, and others with a plain
form of their formula. All rows are measured in turn, over and over, so that
whatever else the machine does hits each of them; a speed-up is the median of
the ratios within a round.

A pass is the reading of both inputs of a row once. The passes of its forward
are the bytes that all operators read and write over the bytes of its inputs.
Views are free, repeated elements count once, and what an operator does inside
is not seen. Connectors count in the rows of distillers alone.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import gc
import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from classifier_losses import Row, classifier_rows
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from prettytable import PrettyTable
from step_time import tensor_memory
from torch.utils._python_dispatch import TorchDispatchMode

from kdvit_mm.catalog import config_root, methods
from kdvit_mm.compat.patches.intact_records import tensors_of
from kdvit_mm.models.utils.gt_masks import scale_mask
from kdvit_mm.registry import MODELS

#: By type and source of the recorder.
Records = dict[tuple[str, str], Any]
BATCH, CHANNELS, CLASSES, PROPOSALS = 2, 256, 80, 1024
STRIDES = (8, 16, 32, 64, 128)
TASKS = ['det', 'seg', 'cls']
#: Seconds that a row is measured for in a round, at least one step.
ROUND = 0.05


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operators read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs an operator and counts its tensors."""
        out = func(*args, **(kwargs or {}))
        read, written = tensors_of((args, kwargs)), tensors_of(out)
        memory = {x.untyped_storage().data_ptr() for x in read}
        is_view = not func._schema.is_mutable and all(
            x.untyped_storage().data_ptr() in memory for x in written
        )
        if not is_view and 'empty' not in func._schema.name:
            self.bytes += sum(map(bytes_of, read + written))
        return out


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements, repeated ones counted once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    number = math.prod(size for size, stride in sizes if stride or not size)
    return number * tensor.element_size()


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--size', type=int, nargs=2, default=[800, 1344],
        help='height and width of an image in pixels',
    )  # fmt: skip
    parser.add_argument(
        '--crop', type=int, default=512,
        help='height and width of a crop for segmentors in pixels',
    )  # fmt: skip
    parser.add_argument('--boxes', type=int, default=30, help='per image')
    parser.add_argument(
        '--images', type=int, default=256, help='rows of logits'
    )
    parser.add_argument(
        '--task',
        nargs='+',
        choices=TASKS,
        default=TASKS,
        help='rows to measure',
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--dtype', default='float32',
        help='of the inputs; under autocast if it is a half precision one',
    )  # fmt: skip
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    return parser.parse_args()


class Inputs:
    """Random inputs and losses of the device and dtype that are asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        dtype = getattr(torch, args.dtype)
        self.like = torch.empty(0, dtype=dtype, device=args.device)
        self.size = tuple(args.size)
        self.shapes = [
            tuple(math.ceil(x / stride) for x in args.size)
            for stride in STRIDES
        ]
        self.boxes = self.draw_boxes(args.boxes)
        self.samples = [self.sample(boxes) for boxes in self.boxes]
        self.fpn = self.pair(partial(self.maps, CHANNELS))
        self.logits = self.pair(partial(self.draw, PROPOSALS, CLASSES + 1))
        self.labels = torch.randint(CLASSES + 1, (PROPOSALS,)).to(args.device)

    def build(self, name: str, **options: Any) -> Any:
        """A loss or a connector, kdvit_mm's unless the name has a scope."""
        scope = '' if '.' in name else 'kdvit_mm.'
        module = MODELS.build({'type': scope + name, **options})
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        return module.to(self.like.device, dtype)

    def draw(self, *shape: int) -> torch.Tensor:
        """Normally distributed numbers."""
        return torch.randn(shape).to(self.like)

    def maps(self, channels: int) -> list[torch.Tensor]:
        """One map per level, each of shape (2, channels, H, W)."""
        return [self.draw(BATCH, channels, *shape) for shape in self.shapes]

    def pair(self, make: Callable[[], Any]) -> tuple[Any, Any]:
        """The student's and the teacher's input."""
        student, teacher = make(), make()
        for tensor in tensors_of(student):
            tensor.requires_grad_()
        return student, teacher

    def draw_boxes(self, number: int) -> torch.Tensor:
        """Boxes of shape (2, number, 4), more small than large ones."""
        limit = torch.tensor(self.size[::-1])
        corner = torch.rand(BATCH, number, 2) * 0.4 * limit
        extent = torch.rand(BATCH, number, 2) ** 3 * 0.6 * limit
        boxes = torch.cat((corner, corner + extent), 2)
        return boxes.to(self.like.device)

    def sample(self, boxes: torch.Tensor) -> DetDataSample:
        """The sample of an image without padding."""
        shapes = {'img_shape': self.size, 'pad_shape': self.size}
        sample = DetDataSample(metainfo=shapes)
        labels = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        return sample


def levels(loss: Callable) -> Callable[[Any, Any], Any]:
    """The sum over the levels of a loss of one."""

    def total(student: Any, teacher: Any) -> Any:
        return sum(map(loss, student, teacher))

    return total


def each(connector: Callable) -> Callable[[Any], Any]:
    """A connector applied to every level."""
    return lambda student: [connector(x) for x in student]


def feature_rows(inputs: Inputs) -> dict[str, Row]:
    """Losses on the maps of an FPN, and mmrazor's."""
    build, fpn = inputs.build, inputs.fpn
    width = {'student_channels': CHANNELS, 'teacher_channels': CHANNELS}
    mgd, their_mgd = (
        levels(build(name, alpha_mgd=2e-5))
        for name in ('MGDLoss', 'mmrazor.MGDLoss')
    )
    generator, their_generator = (
        each(build(name, lambda_mgd=0.65, **width))
        for name in ('MGDGenerator', 'mmrazor.MGDConnector')
    )
    l2 = build('FeatureL2Loss')
    their_l2 = build('mmrazor.L2Loss', normalize=False, div_element=True)
    return {
        'mmrazor.ChannelWiseDivergence': Row(
            levels(build('mmrazor.ChannelWiseDivergence')), *fpn
        ),
        'CWDLoss': Row(
            build('CWDLoss'), *fpn, rival='mmrazor.ChannelWiseDivergence'
        ),
        'mmrazor.PKDLoss': Row(build('mmrazor.PKDLoss'), *fpn),
        'PKDLoss': Row(build('PKDLoss'), *fpn, rival='mmrazor.PKDLoss'),
        'mmrazor.L2Loss': Row(levels(their_l2), *fpn),
        'FeatureL2Loss': Row(l2, *fpn, rival='mmrazor.L2Loss'),
        'mmrazor.MGDLoss': Row(their_mgd, *fpn),
        'MGDLoss': Row(mgd, *fpn, rival='mmrazor.MGDLoss'),
        'mmrazor.MGDConnector + MGDLoss': Row(
            their_mgd, *fpn, their_generator
        ),
        'MGDGenerator + MGDLoss': Row(
            mgd, *fpn, generator, 'mmrazor.MGDConnector + MGDLoss'
        ),
    }


def mask_rows(inputs: Inputs) -> dict[str, Row]:
    """FGD's masks at the number of boxes that is asked for, and at 100."""
    rows = {}
    for boxes in (inputs.boxes, inputs.draw_boxes(100)):
        name = f'FGD masks, {boxes.size(1)} boxes'
        loop = f'{name}, a loop'
        rows[loop] = Row(partial(masks_by_loop, inputs, boxes))
        rows[name] = Row(partial(masks, inputs, boxes), rival=loop)
    return rows


def masks(inputs: Inputs, boxes: torch.Tensor, *_: Any) -> Any:
    """FGD's masks of all levels, as the loss computes them."""
    is_box = torch.ones_like(boxes[..., 0]).bool()
    extents = boxes.new_tensor([inputs.size[::-1] * 2] * BATCH)
    return [
        scale_mask(boxes, is_box, extents, shape) for shape in inputs.shapes
    ]


def masks_by_loop(inputs: Inputs, boxes: torch.Tensor, *_: Any) -> Any:
    """FGD's masks of all levels, one box after another."""
    results = []
    for shape in inputs.shapes:
        batch = boxes.new_zeros((BATCH, *shape))
        scale = boxes.new_tensor(shape) / boxes.new_tensor(inputs.size)
        scaled = boxes * scale.flip(0).repeat(2)
        for mask, image in zip(batch, scaled, strict=True):
            for x1, y1, x2, y2 in image:
                left, top = x1.floor().int(), y1.floor().int()
                right, bottom = x2.ceil().int() + 1, y2.ceil().int() + 1
                value = 1 / ((bottom - top) * (right - left))
                part = torch.maximum(mask[top:bottom, left:right], value)
                mask[top:bottom, left:right] = part
        results.append(batch)
    return results


def roi_head() -> Any:
    """The RoI head of Faster R-CNN with an FPN."""
    return MODELS.build({
        '_scope_': 'mmdet',
        'type': 'StandardRoIHead',
        'bbox_roi_extractor': {
            'type': 'SingleRoIExtractor',
            'roi_layer': {'type': 'RoIAlign', 'output_size': 7},
            'out_channels': CHANNELS,
            'featmap_strides': STRIDES,
        },
        'bbox_head': {
            'type': 'Shared2FCBBoxHead',
            'in_channels': CHANNELS,
            'num_classes': CLASSES,
        },
    })  # fmt: skip


def head_rows(inputs: Inputs) -> dict[str, Row]:
    """Losses on the outputs of heads, and mmrazor's."""
    build, logits, labels = inputs.build, inputs.logits, inputs.labels
    scores = inputs.pair(partial(inputs.maps, CLASSES))
    dist, their_dist = build('DISTLoss'), build('mmrazor.DISTLoss')
    return {
        'mmrazor.DISTLoss, maps as rows': Row(
            levels(on_rows(their_dist)), *scores
        ),
        'DISTLoss, maps': Row(
            dist, *scores, rival='mmrazor.DISTLoss, maps as rows'
        ),
        'mmrazor.DISTLoss': Row(their_dist, *logits),
        'DISTLoss': Row(dist, *logits, rival='mmrazor.DISTLoss'),
        'mmrazor.DKDLoss': Row(
            partial(build('mmrazor.DKDLoss', beta=0.25), gt_labels=labels),
            *logits,
        ),
        'DKDLoss': Row(
            partial(build('DKDLoss', beta=0.25), gt_labels=labels),
            *logits,
            rival='mmrazor.DKDLoss',
        ),
    }  # fmt: skip


def segmentation_rows(inputs: Inputs, crop: int) -> dict[str, Row]:
    """Losses of segmentors, and mmrazor's."""
    build = inputs.build
    rows = {}
    losses = {
        'KDLoss': (build('KDLoss'), 'mmrazor.KLDivergence'),
        'CWDLoss': (build('CWDLoss'), 'mmrazor.ChannelWiseDivergence'),
        'DISTLoss': (build('DISTLoss'), 'mmrazor.DISTLoss'),
    }
    for classes, side in ((19, crop), (150, crop // 4)):
        maps = inputs.pair(partial(inputs.draw, BATCH, classes, side, side))
        for name, (loss, rival) in losses.items():
            theirs = build(rival)
            if name == 'DISTLoss':
                theirs = on_rows(theirs)
            over = f'{rival}, {classes} class maps'
            rows[over] = Row(theirs, *maps)
            rows[f'{name}, {classes} class maps'] = Row(
                loss, *maps, rival=over
            )
    side = crop // 8
    maps = inputs.pair(partial(inputs.draw, BATCH, 512, side, side))
    rows |= {
        'CIRKD mini-batch, a loop over pairs': Row(pairs_by_loop, *maps),
        'CIRKDMiniBatchLoss': Row(
            build('CIRKDMiniBatchLoss'),
            *maps,
            rival='CIRKD mini-batch, a loop over pairs',
        ),
    }
    for classes in (19, 150):
        # Time is that of what is chosen from the queues, not of their size.
        memory = build(
            'CIRKDMemoryLoss',
            student_channels=512,
            teacher_channels=512,
            num_classes=classes,
            pixel_memory=300,
            region_memory=300,
        )
        samples = []
        for label in torch.randint(classes, (BATCH, 1, crop, crop)):
            sample = SegDataSample(gt_sem_seg=PixelData(data=label))
            samples.append(sample.to(inputs.like.device))
        rows[f'CIRKDMemoryLoss, {classes} classes'] = Row(
            partial(memory, data_samples=samples), *maps
        )
    return rows


def on_rows(loss: Callable) -> Callable[[Any, Any], Any]:
    """A loss of rows of classes on class maps, every pixel a row."""

    def total(student: torch.Tensor, teacher: torch.Tensor) -> Any:
        rows = (x.movedim(1, -1).flatten(0, 2) for x in (student, teacher))
        return loss(*rows)

    return total


def pairs_by_loop(student: torch.Tensor, teacher: torch.Tensor) -> Any:
    """CIRKD's mini-batch relation, one pair of images after another."""
    vectors = [F.normalize(x, dim=1).flatten(2) for x in (student, teacher)]
    total = student.new_zeros(())
    for i in range(len(student)):
        for j in range(len(student)):
            ours, theirs = (
                (x[i].mT @ x[j] / 0.1).log_softmax(1) for x in vectors
            )
            total = total + F.kl_div(
                ours, theirs, reduction='batchmean', log_target=True
            )
    return total / len(student) ** 2


def records(inputs: Inputs) -> tuple[Records, Records]:
    """What recorders of the student and of the teacher get, by source."""
    heads = inputs.pair(lambda: (inputs.maps(CLASSES), inputs.maps(4 * 17)))
    image = torch.arange(PROPOSALS).to(inputs.labels) % BATCH
    boxes = inputs.draw_boxes(PROPOSALS)[0]
    student, teacher = (
        {
            ('ModuleOutputs', 'neck'): maps,
            ('ModuleOutputs', 'bbox_head'): head,
            ('ModuleOutputs', 'roi_head.bbox_head'): (logits,),
        }
        for maps, head, logits in zip(
            inputs.fpn, heads, inputs.logits, strict=True
        )
    )
    box_head = 'mmdet.models.roi_heads.bbox_heads.bbox_head.BBoxHead'
    return (
        student
        | {
            ('ModuleInputs', ''): (None, inputs.samples),
            ('ModuleInputs', 'roi_head.bbox_roi_extractor'): (
                None,
                torch.cat((image[:, None], boxes), 1),
            ),
            ('MethodOutputs', f'{box_head}.get_targets'): (inputs.labels,),
        },
        teacher
        | {('kdvit_mm.Module', 'roi_head'): roi_head().to(image.device)},
    )


def distiller_rows(inputs: Inputs) -> dict[str, Row]:
    """Distillers of all methods, if they record nothing else."""
    rows = {}
    sides = records(inputs)
    for method in methods('Detection').values():
        for name in method.distillers:
            file = config_root() / '_base_' / 'distillers' / f'{name}.py'
            config = Config.fromfile(file).distiller
            row = distiller_row(inputs, config, sides)
            if row is not None:
                rows[name] = row
    return rows


def distiller_row(
    inputs: Inputs, config: ConfigDict, sides: tuple[Records, Records]
) -> Row | None:
    """All losses of a distiller; None if a record is missing."""
    wanted = [
        {name: (x.type, x.source) for name, x in config[side].items()}
        for side in ('student_recorders', 'teacher_recorders')
    ]
    if any(
        not known.keys() >= set(keys.values())
        for known, keys in zip(sides, wanted, strict=True)
    ):
        return None
    options = {key: config[key] for key in config if key != 'type'}
    distiller = inputs.build('mmrazor.ConfigurableDistiller', **options)
    recorders = distiller.student_recorders, distiller.teacher_recorders
    for manager, known, keys in zip(recorders, sides, wanted, strict=True):
        for name, key in keys.items():
            manager.get_recorder(name).data_buffer.append(known[key])
    students, teachers = (
        [known[key] for key in keys.values()]
        for known, keys in zip(sides, wanted, strict=True)
    )

    def loss(student: Any, teacher: Any) -> torch.Tensor:
        """Takes what the recorders have."""
        return sum(distiller.compute_distill_losses().values())

    return Row(loss, students, teachers)


def step(row: Row) -> None:
    """Forward and backward."""
    loss = row.loss(row.connect(row.student), row.teacher)
    if row.student is not None:
        loss.backward()
    for tensor in tensors_of(row.student):
        tensor.grad = None


def passes(row: Row) -> float:
    """Passes over the inputs that the loss makes in its forward."""
    student = row.connect(row.student)
    size = sum(map(bytes_of, tensors_of((student, row.teacher))))
    with Traffic() as traffic:
        row.loss(student, row.teacher)
    return traffic.bytes / size


def measure(rows: dict[str, Row], args: argparse.Namespace) -> PrettyTable:
    """Times all rows round by round, short ones several times per round."""

    def clock(row: Row, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            step(row)
        if args.device.startswith('cuda'):
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    for row in rows.values():
        step(row)
    repeats = {
        name: math.ceil(ROUND / clock(row, 1)) for name, row in rows.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.rounds):
        for name, row in rows.items():
            seconds[name].append(clock(row, repeats[name]))
    table = PrettyTable()
    table.field_names = [
        'loss',
        'ms',
        'peak MiB',
        'passes',
        'speed-up',
        'over',
    ]
    table.align = 'r'
    table.align.update({'loss': 'l', 'over': 'l'})
    for name, row in rows.items():
        speed_up = ''
        if row.rival:
            pairs = zip(seconds[row.rival], seconds[name], strict=True)
            ratio = median(theirs / ours for theirs, ours in pairs)
            speed_up = f'{ratio:.2f}'
        table.add_row([
            name,
            f'{1000 * median(seconds[name]):.1f}',
            f'{tensor_memory(partial(step, row), args.device):.1f}',
            '' if row.student is None else f'{passes(row):.2f}',
            speed_up,
            row.rival,
        ])  # fmt: skip
    return table


def main() -> None:
    """Measures all rows and prints the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = Inputs(args)
    rows: dict[str, Row] = {}
    if 'det' in args.task:
        rows |= feature_rows(inputs) | head_rows(inputs) | mask_rows(inputs)
        rows |= distiller_rows(inputs)
    if 'seg' in args.task:
        rows |= segmentation_rows(inputs, args.crop)
    if 'cls' in args.task:
        rows |= classifier_rows(inputs, args.images)
    if inputs.like.element_size() < 4:
        cast = torch.autocast(inputs.like.device.type, inputs.like.dtype)
        rows = {
            name: row._replace(loss=cast(row.loss), connect=cast(row.connect))
            for name, row in rows.items()
        }
    # What is there already need not be looked through for every row.
    gc.freeze()
    table = measure(rows, args)
    height, width = args.size
    print(
        f'torch {torch.__version__}, {args.threads} threads, {args.device}, '
        f'{args.dtype}, batch {BATCH} of {height} x {width}, '
        f'{args.boxes} boxes per image, crops of {args.crop} x {args.crop}, '
        f'{args.images} rows of logits, {args.rounds} rounds'
    )
    print(table)


if __name__ == '__main__':
    main()
