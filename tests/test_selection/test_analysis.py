"""Statistics of qualities whose components are known."""

import copy
import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from kdvit_mm.analysis.configs import (
    build_algorithm,
    build_dataloader,
    load_trained,
)
from kdvit_mm.selection.analysis import (
    Signal,
    analyse,
    measure,
    selected_loss_config,
)
from kdvit_mm.selection.analysis.measurement import describe_objects
from kdvit_mm.selection.analysis.rivals import (
    boosting,
    compare_rivals,
    explained,
    predict_held_out,
    remember,
    ridge,
    split_images,
)
from kdvit_mm.selection.analysis.statistics import (
    find_headroom,
    summarise_levels,
    variance_components,
)
from kdvit_mm.selection.probes import level_benefits
from tests import tiny
from tests.test_selection.test_hook import config

LEVELS = torch.tensor([0.9, 0.2, -0.1, -0.4], dtype=torch.double)
SPREAD = float(LEVELS.var(unbiased=False))
COSTS = torch.tensor([0.7, 0.2, 0.07, 0.03], dtype=torch.double)


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(1, keepdim=True)


def make(
    images: int,
    draws: int,
    image: float = 0.0,
    interaction: float = 0.0,
    noise: float = 0.0,
    shared: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """Quality of known deviations; ``shared`` noise is equal on all levels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.double)

    of_image = image * normal(images, 1)
    # Sums to 0 over the levels, with this variance.
    of_both = interaction * (4 / 3) ** 0.5 * centred(normal(images, 4))
    signal = (LEVELS + of_image + of_both)[:, None]
    return (
        signal
        + noise * normal(images, draws, 4)
        + shared * normal(images, draws, 1)
    )


def test_variance_components_are_recovered():
    quality = make(20_000, 3, image=0.5, interaction=0.8, noise=1.2)
    found = variance_components(quality)
    assert found.level == pytest.approx(SPREAD, rel=0.03)
    assert found.image == pytest.approx(0.25, rel=0.05)
    assert found.interaction == pytest.approx(0.64, rel=0.03)
    assert found.noise == pytest.approx(1.44, rel=0.02)
    assert found.clamped == []
    parts = found.level + found.image + found.interaction + found.noise
    assert parts == pytest.approx(float(quality.var()), rel=0.01)


def test_variance_components_of_a_few_images_are_unbiased():
    """Also with noise that the levels share, which is not the image's."""
    sums = torch.zeros(4, dtype=torch.double)
    for seed in range(2000):
        found = variance_components(
            make(8, 2, 1.0, 0.4, 0.5, shared=0.5, seed=seed)
        )
        sums += torch.tensor(
            [found.level, found.image, found.interaction, found.noise]
        )
    expected = torch.tensor([SPREAD, 1.0, 0.16, 0.5], dtype=torch.double)
    # Hardly one is clamped, which would lift the mean.
    torch.testing.assert_close(sums / 2000, expected, rtol=0.06, atol=0)


def test_a_negative_component_is_set_to_zero_and_named():
    # Draws of an image differ more than the images' means allow.
    quality = torch.tensor([[[1.0], [-1.0]], [[-1.0], [1.0]]]).double()
    found = variance_components(quality.expand(2, 2, 3))
    assert found.image == 0
    assert 'image' in found.clamped
    assert found.noise == 2
    with pytest.raises(ValueError, match='1 draws each'):
        variance_components(quality[:, :1])


def test_a_level_is_summarised():
    quality = make(20_000, 2, image=1.0, noise=0.5)
    for level, found in enumerate(summarise_levels(quality, COSTS)):
        assert found.mean == pytest.approx(float(LEVELS[level]), abs=0.03)
        assert found.std == pytest.approx(1.25**0.5, rel=0.02)
        below = torch.distributions.Normal(LEVELS[level], 1.25**0.5).cdf(
            torch.zeros(())
        )
        assert found.positive == pytest.approx(1 - float(below), abs=0.01)
        assert found.image_share == pytest.approx(0.8, abs=0.02)
        assert found.cost == float(COSTS[level])
    # A map of one position: no gradient, and no image's share of nothing.
    nothing = summarise_levels(torch.zeros(3, 2, 4).double(), COSTS)
    assert nothing[0].image_share == nothing[0].std == 0


@pytest.mark.parametrize('price', [0.0, 0.3, 1.0, 3.0])
def test_headroom_is_that_of_enumeration(price):
    quality = make(12, 3, interaction=0.5, noise=0.5)
    worth = quality / quality.std() - price * COSTS
    sets = [
        torch.tensor(s) for s in itertools.product([0, 1], repeat=4) if any(s)
    ]
    values = torch.stack([(worth * s).sum(2) for s in sets], 2)
    found = find_headroom(quality, COSTS, price)
    assert found.best == pytest.approx(float(values.amax(2).mean()))
    means = values.mean((0, 1))
    assert found.fixed == pytest.approx(float(means.max()))
    fixed = sets[int(means.argmax())]
    assert found.fixed_levels == fixed.nonzero().flatten().tolist()
    assert found.fixed_cost == pytest.approx(float(fixed.double() @ COSTS))
    assert found.all_levels == pytest.approx(float(worth.sum(2).mean()))
    honest = []
    for draw in range(3):
        rest = [i for i in range(3) if i != draw]
        chosen = values[:, rest].mean(1).argmax(1)
        honest.append(values[torch.arange(12), draw, chosen])
    assert found.honest_best == pytest.approx(
        float(torch.stack(honest).mean())
    )
    assert found.headroom == found.best - found.fixed >= 0


def test_noise_is_no_honest_headroom():
    quality = make(20_000, 2, noise=1.0)
    # All levels alike: noise chooses as well as anything.
    alike = quality - LEVELS
    found = find_headroom(alike, COSTS, 0.0)
    assert found.headroom > 0.5
    assert found.honest_headroom == pytest.approx(0, abs=0.02)
    assert found.honest_interval == pytest.approx(0.02, abs=0.01)
    # Else it chooses worse, also at a price.
    for price in (0.0, 1.0):
        found = find_headroom(quality, COSTS, price)
        assert found.headroom > 0.3
        assert found.honest_headroom < 0
    # Without noise, honest or not is the same.
    found = find_headroom(make(50, 2, interaction=1.0), COSTS, 0.5)
    assert found.honest_best == pytest.approx(found.best)
    assert found.honest_headroom > 0.2


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of each level's variance is linear in three of eight features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(300, 2, 8, generator=generator).double()
    weights = torch.randn(3, 4, generator=generator).double()
    weights /= weights.norm(dim=0)
    noise = torch.randn(300, 2, 4, generator=generator).double()
    return features, features[..., :3] @ weights + noise


def test_held_out_quality_is_predicted_as_far_as_it_can_be():
    features, quality = problem()
    folds = split_images(300, 0.25)
    assert folds.bincount().tolist() == [75] * 4
    predicted = predict_held_out(features, quality, folds, ridge)
    assert explained(predicted, quality) == pytest.approx([0.5] * 4, abs=0.08)
    steps = features[..., :1].sign()
    grown = predict_held_out(features, steps, folds, boosting)
    assert explained(grown, steps)[0] > 0.95
    generator = torch.Generator().manual_seed(1)
    unrelated = torch.randn(300, 2, 1, generator=generator).double()
    for model in (ridge, boosting):
        found = explained(
            predict_held_out(features, unrelated, folds, model), unrelated
        )
        assert -0.25 < found[0] < 0.03
    assert explained(predicted, torch.zeros_like(quality)) == [None] * 4


def test_an_image_is_not_predicted_from_its_own_other_draw():
    generator = torch.Generator().manual_seed(0)
    # Features tell images apart, and nothing else.
    features = torch.eye(40).double()[:, None].expand(-1, 2, -1)
    quality = torch.randn(40, 1, 2, generator=generator).double()
    quality = quality.expand(-1, 2, -1)
    predicted = predict_held_out(
        features, quality, split_images(40, 0.25), ridge
    )
    assert all(r2 < 0.05 for r2 in explained(predicted, quality))


def test_a_good_prediction_chooses_between_fixed_and_best():
    features, quality = problem()
    folds = split_images(300, 0.25)
    predictions = {
        'ridge': predict_held_out(features, quality, folds, ridge),
        'perfect': quality,
        'means': quality.mean((0, 1)).expand_as(quality),
    }
    found = compare_rivals(quality, COSTS, 0.5, folds, predictions)
    assert found['best fixed set'].gain == 0
    gain = found['ridge'].gain
    assert found['ridge'].interval < gain < found['perfect'].gain
    assert found['perfect'] == found['best of the draw itself']
    # The best fixed set with hindsight.
    assert 0 <= found['means'].gain < 0.1
    # The features are the draw's own: another draw says nothing.
    assert found["best of the image's other draws"].gain < 0.05
    headroom = find_headroom(quality, COSTS, 0.5)
    assert found['perfect'].worth == pytest.approx(headroom.best)
    assert found['all levels'].worth == pytest.approx(headroom.all_levels)
    assert found['all levels'].cost == pytest.approx(1)


def test_objects_are_counted_by_octave():
    sample = tiny.detection_batch(1)['data_samples'][0]
    sides = torch.tensor([3.0, 8.0, 15.9, 16.0, 600.0, 0.0])
    boxes = torch.stack([sides * 0, sides * 0, 2 * sides, sides / 2], 1)
    sample.gt_instances = sample.gt_instances.new(bboxes=boxes)
    assert describe_objects(sample).tolist() == [6, 2, 2, 1, 0, 0, 0, 0, 1]
    sample.gt_instances = sample.gt_instances[:0]
    assert describe_objects(sample).tolist() == [0] * 9


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """The demo's algorithm in its default scope, and its config."""
    cfg = config(digits, tmp_path_factory.mktemp('run'), 1)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        yield build_algorithm(cfg, init_student=False), cfg


def test_measures_what_a_level_is_worth(trained):
    algorithm, cfg = trained
    dataloader = build_dataloader(cfg, 'val')
    first = measure(algorithm, dataloader, 100, 2)
    assert first.quality.shape == (4, 2, 5)
    assert first.state.shape == (4, 2, 65)
    assert first.costs.sum() == pytest.approx(1)
    # Validation images are not augmented; batches of one size are all there
    # are of 4 images, so that only rounding differs.
    torch.testing.assert_close(first.quality[:, 0], first.quality[:, 1])
    data = dataloader.collate_fn([dataloader.dataset[i] for i in range(4)])
    expected = level_benefits(algorithm, data)[1].quality.double()
    torch.testing.assert_close(
        first.quality[:, 0].sort(0)[0], expected.sort(0)[0]
    )
    counts = [len(x.gt_instances) for x in data['data_samples']]
    assert sorted(first.truth[:, 0, 0].tolist()) == sorted(counts)

    # The same pixels for every checkpoint, other ones in every draw.
    dataloader = build_dataloader(cfg, 'train')
    first = measure(algorithm, dataloader, 6, 2, seed=1)
    second = measure(algorithm, dataloader, 6, 2, seed=1)
    assert torch.equal(first.quality, second.quality)
    assert not torch.equal(first.quality[:, 0], first.quality[:, 1])


def test_images_that_are_not_finite_are_left_out(trained):
    algorithm, cfg = trained
    cfg = copy.deepcopy(cfg)
    # In one batch with them, no image's task loss would be finite.
    cfg.val_dataloader.batch_size = 1
    dataloader = build_dataloader(cfg, 'val')
    collate = dataloader.collate_fn

    def spoil(items):
        data = collate(items)
        data['inputs'] = [x.float() for x in data['inputs']]
        for image, sample in zip(
            data['inputs'], data['data_samples'], strict=True
        ):
            if sample.img_id in broken:
                image[:] = torch.nan
        return data

    dataloader.collate_fn = spoil
    ids = [dataloader.dataset[i]['data_samples'].img_id for i in range(4)]
    broken = ids[:1]
    found = measure(algorithm, dataloader, 4, 2)
    assert found.num_excluded == 1
    assert found.quality.shape == (3, 2, 5)
    broken = ids[:3]
    with pytest.raises(ValueError, match='1 of 4 images have finite'):
        measure(algorithm, dataloader, 4, 2)


def test_checkpoints_of_both_kinds_are_loaded(trained, tmp_path):
    algorithm, _ = trained
    student = algorithm.architecture.state_dict()
    torch.save({'state_dict': student}, tmp_path / 'alone.pth')
    torch.save({'state_dict': algorithm.state_dict()}, tmp_path / 'both.pth')
    expected = {key: x.clone() for key, x in student.items()}
    for name, all_there in (('alone', False), ('both', True)):
        for x in algorithm.architecture.parameters():
            x.data.zero_()
        missing = load_trained(algorithm, str(tmp_path / f'{name}.pth'))
        assert all_there != any('.selector.' in key for key in missing)
        for key, x in algorithm.architecture.state_dict().items():
            assert torch.equal(x, expected[key]), key


def test_a_checkpoint_of_another_student_is_refused(trained, tmp_path):
    algorithm, _ = trained
    state = algorithm.architecture.state_dict()
    file = str(tmp_path / 'other.pth')
    torch.save(
        {k: x for k, x in state.items() if not k.startswith('neck.')}, file
    )
    with pytest.raises(ValueError, match=r'GFL\): 1\d keys missing .*neck'):
        load_trained(algorithm, file)
    state['backbone.conv1.weight'] = torch.zeros(1, 3, 7, 7)
    torch.save(state, file)
    with pytest.raises(ValueError, match=r'(?s)does not fit: .*conv1'):
        load_trained(algorithm, file)


def test_a_config_without_a_selection_is_named():
    with pytest.raises(ValueError, match='has 0 losses of type Selected'):
        selected_loss_config(Config(dict(model=dict(type='GFL'))))


def _signal(quality: torch.Tensor, images: torch.Tensor) -> Signal:
    nothing = torch.zeros(*quality.shape[:2], 1).double()
    return Signal(quality, COSTS, nothing, nothing, images, 0)


def test_remembers_other_draws_of_the_same_images():
    before = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]).double()
    now = torch.tensor([[[0.0], [1.0]], [[2.0], [4.0]]]).double()
    got = remember(
        [_signal(before, torch.tensor([4, 2]))],
        _signal(now, torch.tensor([2, 9])),
    )
    # Image 2 has 5 and 7, each from the other draw; image 9 is not known.
    mean, unit = 16 / 4, now.std() / before.std()
    # The level's mean knows of image 4, too.
    expected = [[[(7 + mean) / 2], [(5 + mean) / 2]], [[mean], [mean]]]
    torch.testing.assert_close(got, unit * torch.tensor(expected).double())


def test_memory_gains_what_lasts_between_checkpoints():
    images = torch.arange(400)
    lasting = make(400, 1, interaction=0.5, seed=3)
    signals = [
        _signal(lasting + make(400, 2, noise=0.5, seed=seed) - LEVELS, images)
        for seed in range(4)
    ]
    report = analyse(signals[-1], [0.0], 0.25, earlier=signals[:-1])
    name = 'memory of earlier checkpoints'
    # Three draws of noise, of variance 1/4, beside a signal of variance 1/3.
    known, noise = 0.25 * 4 / 3 * 3 / 4, 0.25
    share = known / (known + noise)
    assert max(report.r2[name]) < share + 0.1
    assert min(report.r2[name]) > 0.5 * share
    gain = report.rivals[0.0][name]
    assert gain.gain - gain.interval > 0.1
    others = {k: v.gain for k, v in report.rivals[0.0].items() if 'state' in k}
    assert others and max(others.values()) < 0.5 * gain.gain
    assert name not in analyse(signals[-1], [0.0], 0.25).r2
