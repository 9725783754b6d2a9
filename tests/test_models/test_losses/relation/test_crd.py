import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmpretrain.structures import DataSample

from kdvit_mm.models.losses.relation.crd import CRDLoss
from tests import tiny
from tests.examples import Example, pair
from tests.golden import parametrize
from tests.loss_checks import assert_golden, assert_robust, train_step
from tests.resume_checks import DISTILLED, read_config, run, run_in_halves

EXAMPLES = [
    Example(
        dict(
            type='CRDLoss', student_channels=5, teacher_channels=5, num_data=9
        ),
        lambda: pair(3, 5) | dict(data_samples=samples(range(3), range(3))),
    )
]


def samples(indices, labels):
    found = []
    for index, label in zip(indices, labels, strict=True):
        sample = DataSample(metainfo=dict(sample_idx=int(index)))
        found.append(sample.set_gt_label(int(label)))
    return found


@parametrize('crd')
def test_equals_official_code(case):
    options = case.settings
    loss = CRDLoss(
        case.inputs['f_s'].size(1),
        case.inputs['f_t'].size(1),
        num_data=options['n_data'],
        channels=options['feat_dim'],
        num_negatives=options['nce_k'],
        tau=options['nce_t'],
        momentum=options['nce_m'],
    )
    picks = case.inputs['contrast_idx']
    batch = samples(case.inputs['idx'], case.inputs['idx'])
    # The entries drawn by the official data set.
    loss._draw_negatives = lambda labels: picks[:, 1:]

    def state(tensors):
        z = tensors['contrast.params'][2:4]
        return {
            'bank_s': tensors['contrast.memory_v1'],
            'bank_t': tensors['contrast.memory_v2'],
            'log_z': torch.where(z < 0, torch.inf, z.log()),
        }

    def call(x):
        layers = {
            key.replace('.linear', ''): tensor
            for key, tensor in case.params.items()
            if key.startswith('embed')
        }
        loss.load_state_dict(layers | state(case.params), strict=False)
        value = loss(x['f_s'], x['f_t'], batch)
        tolerance = 1e-10 if value.dtype == torch.float64 else 1e-5
        for key, expected in state(case.after).items():
            torch.testing.assert_close(
                getattr(loss, key),
                expected.to(value.dtype),
                rtol=tolerance,
                atol=tolerance,
            )
        return value

    grads = {k.replace('.linear', ''): v for k, v in case.grads.items()}
    assert_golden(call, case._replace(grads=grads), loss)


def make_loss(**changes):
    torch.manual_seed(0)
    options = dict(
        student_channels=5,
        teacher_channels=7,
        num_data=20,
        channels=6,
        num_negatives=8,
    )
    return CRDLoss(**options | changes)


def features(number, dtype=torch.float32):
    generator = torch.Generator().manual_seed(number)
    student = torch.randn(number, 5, generator=generator, dtype=dtype)
    teacher = torch.randn(number, 7, generator=generator, dtype=dtype)
    return student.requires_grad_(), teacher


def test_equals_the_formula():
    loss = make_loss(loss_weight=2.5).double()
    student, teacher = features(3, torch.float64)
    index, labels = [4, 11, 2], [0, 1, 0]
    picks = torch.randint(20, (3, 8))
    loss._draw_negatives = lambda labels: picks
    before = loss.bank_s.clone(), loss.bank_t.clone()
    value = loss(student, teacher, samples(index, labels))

    def unit(x):
        return x / x.pow(2).sum(-1, keepdim=True).sqrt()

    embedded = unit(loss.embed_s(student)), unit(loss.embed_t(teacher))
    expected = 0
    for own, bank in zip(embedded, before[::-1], strict=True):
        scores = torch.stack(
            [
                (bank[[i, *others]] @ u / 0.07).exp()
                for u, i, others in zip(
                    own, index, picks.tolist(), strict=True
                )
            ]
        )
        p = scores / (scores.mean() * 20)
        right, wrong = p[:, 0], p[:, 1:]
        noise = 8 / 20
        terms = (right / (right + noise)).log()
        terms = terms + (noise / (wrong + noise)).log().sum(1)
        expected = expected - terms.mean()
    # The official code's 1e-7 beside the noise is not in the formula.
    torch.testing.assert_close(value, 2.5 * expected, rtol=1e-5, atol=0)
    for old, new, own in zip(
        before, (loss.bank_s, loss.bank_t), embedded, strict=True
    ):
        moved = unit((old[index] + own.detach()) / 2)
        torch.testing.assert_close(new[index], moved, rtol=1e-10, atol=1e-12)
        others = [i for i in range(20) if i not in index]
        assert torch.equal(new[others], old[others])


def test_negatives_are_of_other_classes():
    loss = make_loss(num_data=6, num_negatives=3000)
    loss.bank_labels.copy_(torch.tensor([2, 0, -1, 2, 1, 0]))
    draws = loss._draw_negatives(torch.tensor([0, 1, 2]))
    for row, allowed in zip(
        draws, ([0, 2, 3, 4], [0, 1, 2, 3, 5], [1, 2, 4, 5]), strict=True
    ):
        found, counts = row.unique(return_counts=True)
        assert found.tolist() == allowed
        assert counts.min() > 0.8 * 3000 / len(allowed)


def test_classes_are_learned_from_the_batches():
    loss = make_loss()
    assert loss.bank_labels.tolist() == [-1] * 20
    loss(*features(3), samples([4, 11, 2], [7, 9, 7]))
    found = loss.bank_labels.tolist()
    assert (found[4], found[11], found[2]) == (7, 9, 7)
    assert found.count(-1) == 17


def test_the_last_of_equal_images_counts():
    loss, student, teacher = make_loss(), *features(3)
    before = loss.bank_s[4].clone()
    loss(student, teacher, samples([4, 11, 4], [0, 1, 0]))
    own = torch.nn.functional.normalize(loss.embed_s(student), dim=1)[2]
    moved = torch.nn.functional.normalize((before + own) / 2, dim=0)
    torch.testing.assert_close(loss.bank_s[4], moved)


def test_only_training_changes_the_banks():
    loss = make_loss()
    batch = samples([4, 11, 2], [0, 1, 0])
    loss(*features(3), batch)
    before = {key: x.clone() for key, x in loss.state_dict().items()}
    loss.eval()(*features(3), batch)
    after = loss.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in before.items())
    assert {'bank_s', 'bank_t', 'bank_labels', 'log_z'} < set(after)


def test_a_batch_of_one():
    loss = make_loss()
    with pytest.raises(ValueError, match=r'first batch .*batch_size to 2'):
        loss(*features(1), samples([3], [0]))
    loss(*features(3), samples([4, 11, 2], [0, 1, 0]))
    # The last one of an epoch.
    student, teacher = features(1)
    value = loss(student, teacher, samples([3], [0]))
    value.backward()
    assert value > 0
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize('shape', [(4, 5), (3, 5, 1, 1)])
def test_hard_input(dtype, shape):
    torch.manual_seed(0)
    loss = make_loss(teacher_channels=5, momentum=0.0).eval()
    state = loss.state_dict()
    picks = torch.randint(20, (shape[0], 8))
    loss._draw_negatives = lambda labels: picks
    student, teacher = (
        (2e4 * torch.rand(shape) - 1e4).to(dtype) for _ in range(2)
    )
    batch = samples(range(shape[0]), range(shape[0]))

    def call(s, t):
        # Autocast or not, layers have the precision of their input.
        loss.to(torch.promote_types(s.dtype, torch.float32))
        loss.load_state_dict(state)
        loss.log_z.fill_(torch.inf)
        return loss(s, t, batch)

    assert_robust(call, student.requires_grad_(), teacher)


def test_errors():
    loss, pair = make_loss(), features(3)
    batch = samples([4, 11, 2], [0, 1, 0])
    with pytest.raises(ValueError, match=r' 0 data_samples.*ModuleInputs'):
        loss(*pair)
    with pytest.raises(ValueError, match='2 data_samples for 3 rows'):
        loss(*pair, batch[:2])
    with pytest.raises(ValueError, match=r"meta_keys=\('sample_idx'"):
        loss(*pair, [DataSample().set_gt_label(0)] * 3)
    with pytest.raises(ValueError, match=r'from 1 to 20 .*num_data=20'):
        loss(*pair, samples([1, 20, 3], [0, 1, 2]))
    with pytest.raises(ValueError, match='Remove Mixup'):
        soft = [x.clone().set_gt_score(torch.rand(3)) for x in batch]
        loss(*pair, soft)
    with pytest.raises(ValueError, match='one gt_label each'):
        loss(*pair, [x.clone().set_gt_label([0, 1]) for x in batch])
    with pytest.raises(ValueError, match=r'Set student_channels=4'):
        loss(pair[0][:, :4], pair[1], batch)
    with pytest.raises(ValueError, match=r'\(3, 7, 2, 2\).*=28'):
        loss(pair[0], pair[1][:, :, None, None].expand(3, 7, 2, 2), batch)
    with pytest.raises(ValueError, match='same images'):
        loss(pair[0], pair[1][:2], batch)
    with pytest.raises(ValueError, match=r'one level.*data_idx'):
        loss([pair[0]] * 2, [pair[1]] * 2, batch)
    with pytest.raises(ValueError, match='Train on more classes'):
        make_loss(num_data=2)(*features(2), samples([0, 1], [3, 3]))
    for options in dict(num_data=0), dict(momentum=1), dict(num_negatives=0):
        with pytest.raises(ValueError, match=f'got .*{next(iter(options))}='):
            make_loss(**options)


DISTILLER = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        pooled=dict(type='ModuleOutputs', source='neck'),
        samples=dict(type='ModuleInputs', source=''),
    ),
    teacher_recorders=dict(pooled=dict(type='ModuleOutputs', source='neck')),
    distill_losses=dict(
        loss_crd=dict(
            type='kdvit_mm.CRDLoss',
            student_channels=32,
            teacher_channels=128,
            num_data=40,
            num_negatives=64,
            channels=16,
            loss_weight=0.8,
        )
    ),
    loss_forward_mappings=dict(
        loss_crd=dict(
            preds_S=dict(recorder='pooled', from_student=True),
            preds_T=dict(recorder='pooled', from_student=False),
            data_samples=dict(
                recorder='samples', from_student=True, data_idx=1
            ),
        )
    ),
)


def config(digits, work_dir, epochs, **changes):
    cfg = read_config(DISTILLED['cls'], digits, work_dir, epochs)
    cfg.model.distiller = DISTILLER
    cfg.model.distiller.distill_losses.loss_crd.update(changes)
    return cfg


def test_training_resumes_bit_for_bit(digits, tmp_path):
    straight = run(config(digits, tmp_path / 'straight', 2))
    halves = run_in_halves(lambda: config(digits, tmp_path / 'halves', 2))
    first, second = (x.model.state_dict() for x in (straight, halves))
    assert first.keys() == second.keys()
    assert all(torch.equal(x, second[key]) for key, x in first.items())
    bank = 'distiller.distill_losses.loss_crd.bank_'
    labels = first[f'{bank}labels']
    # All 40 crops were seen, four of each class.
    assert labels.bincount().tolist() == [4] * 10
    for side in 's', 't':
        lengths = first[bank + side].norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(40))


def test_the_bank_must_have_the_size_of_the_training_set(digits, tmp_path):
    with pytest.raises(ValueError, match=r'num_data=41, but .* has 40 im'):
        run(config(digits, tmp_path / 'size', 1, num_data=41))


class Numbers(BaseDataset):
    def load_data_list(self):
        return [dict(number=n) for n in range(3)]


def test_repeated_data_sets_have_one_entry_per_image():
    dataset = RepeatDataset(Numbers(), 4)
    assert dataset[11]['sample_idx'] == 2
    make_loss(num_data=3).check_dataset(dataset)
    with pytest.raises(ValueError, match=r'num_data=12, but .* 3 images'):
        make_loss(num_data=12).check_dataset(dataset)
    parts = ConcatDataset([Numbers(), Numbers()])
    assert parts[4]['sample_idx'] == 1
    with pytest.raises(ValueError, match='one sample_idx per image'):
        make_loss(num_data=6).check_dataset(parts)


def test_gradients_reach_both_layers_and_not_the_teacher():
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    batch = dict(
        inputs=list(images), data_samples=samples(range(4), [3, 0, 3, 9])
    )
    losses = {
        name: dict(loss, teacher_channels=64)
        for name, loss in DISTILLER['distill_losses'].items()
    }
    distiller = {
        key: value
        for key, value in (DISTILLER | dict(distill_losses=losses)).items()
        if key != 'type'
    }
    algorithm, _ = train_step(tiny.resnet(4), tiny.resnet(8), distiller, batch)
    loss = algorithm.distiller.distill_losses.loss_crd
    assert loss.embed_s.weight.grad.abs().sum() > 0
    assert loss.embed_t.weight.grad.abs().sum() > 0
