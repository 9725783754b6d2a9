import itertools

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from kdvit_mm.models.losses.relation import cirkd
from kdvit_mm.models.losses.relation.cirkd import (
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
)
from kdvit_mm.models.losses.response.kd import KDLoss
from tests.examples import Example, maps, neck
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    hard_pair,
    on_hard_maps,
)
from tests.resume_checks import DISTILLED, read_config, run, run_in_halves

EXAMPLES = [
    Example(dict(type='CIRKDMiniBatchLoss'), neck, 'neck'),
    *(
        Example(
            dict(
                type='CIRKDMemoryLoss',
                student_channels=3,
                teacher_channels=4,
                num_classes=7,
                pixel_memory=600,
                region_memory=200,
                released_positions=released,
            ),
            lambda: dict(
                preds_S=maps(2, 3, 6, 5),
                preds_T=maps(2, 4, 6, 5),
                data_samples=samples(torch.zeros(2, 12, 10).long()),
            ),
        )
        for released in (True, False)
    ),
]


def samples(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=x[None])) for x in labels]


@parametrize('cirkd', 'minibatch')
@pytest.mark.parametrize('block', [cirkd.BLOCK, 1, 100])
def test_pairs_equal_official_code(case, block, monkeypatch):
    monkeypatch.setattr(cirkd, 'BLOCK', block)
    loss = CIRKDMiniBatchLoss(case.settings['temperature'])
    assert_golden(lambda x: loss(x['feat_s'], x['feat_t']), case)


@parametrize('cirkd', 'kd')
def test_pixels_equal_official_code(case):
    loss = KDLoss(tau=case.settings['temperature'])
    assert_golden(lambda x: loss(x['logits_s'], x['logits_t']), case)


NAMES = dict(
    teacher_segment_queue='region_queue',
    segment_queue_ptr='region_count',
    teacher_pixel_queue='pixel_queue',
    pixel_queue_ptr='pixel_count',
)


@parametrize('cirkd', 'memory')
def test_queues_equal_official_code(case):
    options = case.settings
    classes = options['n_classes']
    loss = CIRKDMemoryLoss(
        case.inputs['feat_s'].size(1),
        case.inputs['feat_t'].size(1),
        classes,
        pixel_memory=options['pixel_memory'],
        region_memory=options['region_memory'],
        pixel_contrast=classes * (options['pixel_contrast'] - 1),
        region_contrast=classes * (options['region_contrast'] - 1),
        tau=options['contrast_temperature'],
        pixel_weight=1.0,
        region_weight=1.0,
        ignore_index=options['ignore_label'],
        released_positions=True,
    )
    draws = [
        case.inputs[f'draw{index}']
        for index in range(sum('draw' in key for key in case.inputs))
    ]

    def permutations(group, starts):
        drawn = torch.cat(draws[:-2])
        return F.pad(drawn, (0, len(group) - len(drawn)))

    loss._permutations = permutations
    chosen = dict(zip(map(len, draws[-2:]), draws[-2:], strict=True))
    loss._permutation = lambda queue: chosen[queue.size(1)]
    batch = samples(case.inputs['labels'])

    def call(x):
        loss.load_state_dict(
            {
                NAMES.get(key, key): tensor
                for key, tensor in case.params.items()
                # The head here has no running statistics.
                if 'running' not in key and 'num_batches' not in key
            }
        )
        value = loss(x['feat_s'], x['feat_t'], batch)
        for theirs, ours in NAMES.items():
            torch.testing.assert_close(
                getattr(loss, ours),
                case.after[theirs].to(getattr(loss, ours).dtype),
            )
        return value

    assert_golden(call, case, loss)


def features(seed, channels, batch=3, size=(6, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, channels, *size
    return torch.randn(shape, generator=generator, dtype=dtype)


def test_pairs_of_other_channels():
    student, teacher = features(0, 3), features(1, 5)
    student.requires_grad_()
    expected = 0
    for i in range(3):
        for j in range(3):
            rows = [
                F.normalize(maps, dim=1).flatten(2)
                for maps in (student, teacher)
            ]
            p_s, p_t = (
                (x[i].T @ x[j] / 0.5).softmax(1).flatten(1) for x in rows
            )
            expected = expected + (p_t * (p_t / p_s).log()).sum(1).mean() / 9
    value = CIRKDMiniBatchLoss(tau=0.5, loss_weight=3.0)(student, teacher)
    torch.testing.assert_close(value, 3 * expected)
    ours, theirs = (
        torch.autograd.grad(x, student)[0] for x in (value, 3 * expected)
    )
    torch.testing.assert_close(ours, theirs)


def make_memory(**changes):
    torch.manual_seed(0)
    options = dict(
        student_channels=3,
        teacher_channels=5,
        num_classes=4,
        pixel_memory=70,
        region_memory=6,
        pixel_contrast=20,
        region_contrast=8,
    )
    return CIRKDMemoryLoss(**options | changes)


def label_maps(seed, batch=3, size=(12, 10)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (batch, *size), generator=generator)
    labels[labels == 4] = 255
    # A class with fewer than 16 pixels, and one that does not occur.
    labels[0][labels[0] == 2] = 1
    labels[1, 1:][labels[1, 1:] == 3] = 0
    return labels


def slow_queues(loss, teacher, labels, drawn):
    """What the queues hold after a batch, class by class."""
    pixels, regions = loss.pixel_queue.clone(), loss.region_queue.clone()
    vectors = F.normalize(teacher, dim=1)
    for features, label in zip(vectors, labels, strict=True):
        for c in label[label != 255].unique().tolist():
            found = features[:, label == c].T
            place = slow_queues.regions[c] % regions.size(1)
            regions[c, place] = F.normalize(found.mean(0), dim=0)
            slow_queues.regions[c] += 1
            for index in drawn.pop(0)[:16].tolist():
                place = slow_queues.pixels[c] % pixels.size(1)
                pixels[c, place] = found[index]
                slow_queues.pixels[c] += 1
    return pixels, regions


def test_queues_are_rings_of_the_class_s_own_pixels():
    loss = make_memory().double()
    slow_queues.pixels, slow_queues.regions = [0] * 4, [0] * 4
    permutations = loss._permutations
    for step in range(4):
        student, teacher = features(2 * step, 3), features(2 * step + 1, 5)
        labels = label_maps(step)
        drawn = []

        def spy(group, starts, drawn=drawn):
            found = permutations(group, starts)
            # The last group has the ignored pixels.
            for first, last in itertools.pairwise(starts.tolist()):
                part = found[first:last]
                assert sorted(part.tolist()) == list(range(last - first))
                if len(part):
                    drawn.append(part)
            return found

        loss._permutations = spy
        before = make_memory().double()
        before.load_state_dict(loss.state_dict())
        loss(student, teacher, samples(labels))
        # Every second label: the maps are half as large.
        expected = slow_queues(before, teacher, labels[:, ::2, ::2], drawn)
        torch.testing.assert_close(
            (loss.pixel_queue, loss.region_queue), expected
        )
        assert loss.pixel_count.tolist() == slow_queues.pixels
        assert loss.region_count.tolist() == slow_queues.regions
    assert max(slow_queues.pixels) > 70
    assert max(slow_queues.regions) > 6


def test_more_than_a_queue_holds():
    loss = make_memory(pixel_memory=10, region_memory=3).double()
    teacher = features(1, 5, batch=7)
    labels = torch.zeros(7, 12, 10, dtype=torch.long)
    loss(features(0, 3, batch=7), teacher, samples(labels))
    vectors = F.normalize(teacher, dim=1).flatten(2)
    means = F.normalize(vectors[-3:].mean(2), dim=1)
    # The seventh is at place 6 of a ring of three, and so on.
    torch.testing.assert_close(loss.region_queue[0], means[[2, 0, 1]])
    own = vectors[-1].T
    for row in loss.pixel_queue[0]:
        assert (row - own).abs().sum(1).min() < 1e-12
    assert loss.pixel_count.tolist() == [112, 0, 0, 0]


def test_memory_equals_the_formula():
    loss = make_memory(pixel_weight=0.5, region_weight=0.25, tau=0.3).double()
    student, teacher = features(0, 3).requires_grad_(), features(1, 5)
    labels = label_maps(0)
    value = loss(student, teacher, samples(labels))

    head = loss.project_head
    x = torch.einsum('oi,nihw->nohw', head[0].weight[:, :, 0, 0], student)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    x = torch.einsum('oi,nihw->nohw', head[3].weight[:, :, 0, 0], x.relu())
    has_label = labels[:, ::2, ::2] != 255
    s, t = (
        F.normalize(maps, dim=1).movedim(1, 3)[has_label]
        for maps in (x, teacher)
    )
    torch.manual_seed(1)
    expected = 0
    picked = {}
    for kind, weight in ('pixel', 0.5), ('region', 0.25):
        queue = getattr(loss, f'{kind}_queue')
        number = {'pixel': 6, 'region': 3}[kind]
        picked[queue.size(1)] = torch.randperm(queue.size(1))
        columns = queue[:, picked[queue.size(1)][:number]].reshape(-1, 5)
        p_s, p_t = ((z @ columns.T / 0.3).softmax(1) for z in (s, t))
        terms = (p_t * (p_t / p_s).log()).sum(1)
        expected = expected + weight * terms.mean()
    loss._permutation = lambda queue: picked[queue.size(1)]
    # The queues stay as the first call has left them.
    value = loss.eval()(student, teacher, samples(labels))
    torch.testing.assert_close(value, expected)
    ours, theirs = (
        torch.autograd.grad(x, student)[0] for x in (value, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_only_training_changes_the_queues():
    loss = make_memory().eval().double()
    before = {key: x.clone() for key, x in loss.state_dict().items()}
    args = features(0, 3), features(1, 5), samples(label_maps(0))
    loss(*args)
    after = loss.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in before.items())
    loss.train()(*args)
    assert not torch.equal(before['pixel_queue'], after['pixel_queue'])
    assert {'pixel_queue', 'region_queue', 'pixel_count'} < set(after)


def test_maps_without_labels():
    loss = make_memory().double()
    ignored = torch.full((3, 12, 10), 255)
    student, teacher = features(0, 3).requires_grad_(), features(1, 5)
    with pytest.raises(
        ValueError, match=r'no pixel has had a label so far.*ignore_index=255'
    ):
        loss(student, teacher, samples(ignored))
    loss(student, teacher, samples(label_maps(0)))
    before = {key: x.clone() for key, x in loss.state_dict().items()}
    # Later it may happen.
    value = loss(student, teacher, samples(ignored))
    value.backward()
    assert value == 0
    assert student.grad.abs().sum() == 0
    assert all(p.grad.abs().sum() == 0 for p in loss.parameters())
    after = loss.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in before.items())
    # One image of it changes nothing for the others.
    labels = label_maps(1)
    labels[1] = 255
    assert loss(student, teacher, samples(labels)) > 0


@on_hard_maps
def test_hard_pairs(dtype, layout, shape):
    student, teacher = hard_pair(dtype, layout, shape)
    assert_robust(CIRKDMiniBatchLoss(), student, teacher)


@on_hard_maps
def test_hard_memory(dtype, layout, shape):
    student, teacher = hard_pair(dtype, layout, shape)
    channels, labels = shape[1], torch.zeros(shape[0], 4, 4).long()
    loss = make_memory(
        student_channels=channels, teacher_channels=channels
    ).eval()
    loss._permutation = lambda queue: torch.arange(queue.size(1))

    def call(s, t):
        loss.to(torch.promote_types(s.dtype, torch.float32))
        return loss(s, t, samples(labels))

    if shape == (1, 3, 1, 1):
        with pytest.raises(ValueError, match=r'\(1, 3, 1, 1\).*batch_size'):
            call(student, teacher)
    else:
        assert_robust(call, student, teacher)


def test_errors():
    student, teacher = features(0, 3), features(1, 5)
    for loss in CIRKDMiniBatchLoss(), make_memory().double():
        with pytest.raises(ValueError, match='heights and widths must be'):
            loss(student, teacher[..., :-1], samples(label_maps(0)))
        with pytest.raises(ValueError, match='same images'):
            loss(student, teacher[:2], samples(label_maps(0)))
    batch = samples(label_maps(0))
    with pytest.raises(ValueError, match=r'label map .*3 images.*ModuleInp'):
        loss(student, teacher)
    with pytest.raises(ValueError, match='gt_sem_seg'):
        loss(student, teacher, batch[:2])
    with pytest.raises(ValueError, match='gt_sem_seg'):
        loss(student, teacher, [SegDataSample()] * 3)
    with pytest.raises(ValueError, match=r'\(1, 8, 10\).*to one size'):
        cut = samples(label_maps(0)[:1, :8])
        loss(student, teacher, cut + batch[1:])
    for wrong in 4, -1, 254:
        labels = torch.full((3, 12, 10), wrong)
        with pytest.raises(ValueError, match=rf'labels from {wrong} to'):
            loss(student, teacher, samples(labels))
    with pytest.raises(ValueError, match='Set student_channels=2'):
        loss(student[:, :2], teacher, batch)
    with pytest.raises(ValueError, match='Set teacher_channels=6'):
        loss(student, features(1, 6), batch)
    with pytest.raises(ValueError, match=r'one level.*data_idx'):
        loss([student] * 2, [teacher] * 2, batch)
    with pytest.raises(ValueError, match='Set pixel_memory to 6'):
        make_memory(pixel_memory=5)
    with pytest.raises(ValueError, match='Set region_memory to 3'):
        make_memory(region_memory=2)


SIDES = dict(
    preds_S=dict(recorder='features', from_student=True),
    preds_T=dict(recorder='features', from_student=False),
)
DISTILLER = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.convs'),
        samples=dict(type='ModuleInputs', source=''),
    ),
    teacher_recorders=dict(
        features=dict(type='ModuleOutputs', source='decode_head.bottleneck')
    ),
    distill_losses=dict(
        loss_minibatch=dict(type='CIRKDMiniBatchLoss'),
        loss_memory=dict(
            type='CIRKDMemoryLoss',
            student_channels=32,
            teacher_channels=64,
            num_classes=11,
            pixel_memory=100,
            region_memory=20,
            pixel_contrast=256,
            region_contrast=64,
        ),
    ),
    loss_forward_mappings=dict(
        loss_minibatch=SIDES,
        loss_memory=dict(
            SIDES,
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1
            ),
        ),
    ),
)


def test_training_resumes_bit_for_bit(digits, tmp_path):
    def config(name):
        cfg = read_config(DISTILLED['seg'], digits, tmp_path / name, 2)
        cfg.model.distiller = DISTILLER
        return cfg

    straight = run(config('straight'))
    halves = run_in_halves(lambda: config('halves'))
    first, second = (x.model.state_dict() for x in (straight, halves))
    assert first.keys() == second.keys()
    assert all(torch.equal(x, second[key]) for key, x in first.items())
    loss = straight.model.distiller.distill_losses.loss_memory
    # Four scenes in each of two iterations, all with a background.
    assert loss.region_count[0] == 8
    assert loss.pixel_count[0] == 8 * 16
