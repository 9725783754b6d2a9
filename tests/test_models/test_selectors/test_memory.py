"""Selectors that remember what levels were worth to an image."""

import copy
from types import SimpleNamespace

import pytest
import torch

from kdvit_mm.models.selectors.learning import above_price
from kdvit_mm.models.selectors.memory import (
    NO_IMAGE,
    QualityMemory,
    image_keys,
)
from kdvit_mm.registry import MODELS

NAN = torch.nan
SELECTORS = {
    'greedy': dict(type='GreedyLevels'),
    'regressed': dict(type='RegressedLevels', seed=0, exploration=0.3),
    'ppo': dict(type='PPOLevels', seed=0, lr=1e-2, gamma=0),
    'joint': dict(type='PPOLevels', seed=0, lr=1e-2, action='joint'),
}
#: What an image is worth on each of three levels is seen in nothing.
NUM_IMAGES, COSTS = 48, torch.tensor([0.5, 0.3, 0.2])


def _build(name, **changes):
    config = dict(SELECTORS[name], num_levels=3, lambda_cost=0.3)
    return MODELS.build(config | changes)


def _batch(generator, hidden):
    images = torch.randperm(NUM_IMAGES, generator=generator)[:16]
    maps = [
        torch.randn(16, 4, size, size, generator=generator)
        for size in (5, 4, 3)
    ]
    noise = torch.randn(16, 3, generator=generator)
    return images, maps, hidden[images] + 0.7 * noise


def _train(selector, updates=60, seed=0):
    """Lets it learn; the share of the way from random sets to the best."""
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randint(2, (NUM_IMAGES, 3), generator=generator) - 1.0
    for _ in range(updates):
        for _ in range(3):
            images, maps, quality = _batch(generator, hidden)
            chosen = selector(maps, maps, COSTS, images).levels
            selector.observe(
                quality.where(chosen, NAN), torch.ones(16, dtype=torch.bool)
            )
        selector.learn()
    selector.eval()
    got = best = base = 0.0
    for _ in range(20):
        images, maps, _ = _batch(generator, hidden)
        worth = hidden[images] / selector.quality_moments.deviation
        worth = worth - selector.lambda_cost * COSTS
        chosen = selector(maps, maps, COSTS, images).levels
        got += (worth * chosen).sum().item()
        best += (worth * above_price(worth)).sum().item()
        base += (worth * 4 / 7).sum().item()
    selector.train()
    return (got - base) / (best - base)


def test_draws_what_it_recalls_to_the_level_s_mean():
    memory = QualityMemory(2)
    images = torch.tensor([7, 8, 9])
    assert memory.recall(images).isnan().all()
    memory.update(
        torch.tensor([7, 8, 7, NO_IMAGE]),
        torch.tensor([[1.0, NAN], [4.0, 2.0], [3.0, NAN], [100.0, 100.0]]),
    )
    # The first level's mean is 8/3; image 7 has two values, image 8 one.
    mean = 8 / 3
    expected = [[(4 + mean) / 3, 2], [(4 + mean) / 2, 2], [mean, 2]]
    torch.testing.assert_close(
        memory.recall(images), torch.tensor(expected, dtype=torch.float32)
    )


def test_remembers_through_a_file(tmp_path):
    memory, other = QualityMemory(2), QualityMemory(2)
    images = torch.tensor([3, 5])
    memory.update(images, torch.tensor([[1.0, NAN], [0.0, 2.0]]))
    torch.save(memory.state(), tmp_path / 'memory.pth')
    other.load_state(torch.load(tmp_path / 'memory.pth', weights_only=True))
    for one in (memory, other):
        one.update(images, torch.tensor([[1.0, 1.0], [NAN, NAN]]))
    assert torch.equal(memory.recall(images), other.recall(images))
    assert memory.recall(images).any()


def test_keys_tell_images_apart():
    metas = [{'img_id': 1}, {'img_id': '1'}, {'img_id': 2}, {}]
    metas += [{'img_path': 'a.jpg'}, {'img_path': 'b.jpg', 'img_id': 3}]
    samples = [SimpleNamespace(metainfo=meta) for meta in metas]
    keys = image_keys(samples).tolist()
    assert keys[0] == keys[1] and keys[3] == NO_IMAGE
    assert len(set(keys)) == 5 and min(keys[:3] + keys[4:]) >= 0
    assert keys == image_keys(samples).tolist()
    assert image_keys(None) is None


def test_the_same_id_in_another_part_is_another_image():
    here, moved, other = (
        SimpleNamespace(metainfo={'img_id': 0, 'img_path': path})
        for path in ('/a/train/0.png', '/b/c/train/0.png', '/a/val/0.png')
    )
    keys = image_keys([here, moved, other]).tolist()
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize('name', SELECTORS)
def test_memory_finds_what_no_state_shows(name):
    assert _train(_build(name)) < 0.35
    assert _train(_build(name, remembers=True)) > 0.9


@pytest.mark.parametrize('name', SELECTORS)
def test_resume_remembers(name):
    selector, resumed = (_build(name, remembers=True) for _ in range(2))
    _train(selector, 3)
    state = copy.deepcopy([selector.state_dict(), selector.extra_state()])
    resumed.load_state_dict(state[0])
    resumed.load_extra_state(state[1])
    assert _train(selector, 2, seed=1) == _train(resumed, 2, seed=1)
    for key, value in selector.state_dict().items():
        assert torch.equal(
            value.nan_to_num(), resumed.state_dict()[key].nan_to_num()
        )


def test_unknown_images_are_an_error():
    maps = [torch.randn(2, 4, size, size) for size in (5, 4, 3)]
    with pytest.raises(ValueError, match='Map data_samples to the loss'):
        _build('ppo', remembers=True)(maps, maps, COSTS)
