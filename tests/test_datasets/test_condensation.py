"""Which samples are kept, drawn and mixed."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler

from kdvit_mm.datasets import CondensedSampler, MixDropped
from kdvit_mm.datasets.condensation import Condensation
from kdvit_mm.datasets.mix_dropped import blend

NUMBER = 60


class Images(BaseDataset):
    """Random images in memory, as the CIFAR data sets have them."""

    def load_data_list(self) -> list[dict]:
        generator = np.random.default_rng(0)
        return [
            dict(img=generator.integers(256, size=(4, 5, 3), dtype=np.uint8))
            for _ in range(NUMBER)
        ]


class Official:
    """The official procedure, written out on arrays of the whole set."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images.copy()
        self.table: list[np.ndarray] = []
        self.order = np.arange(len(images))

    def epoch(self, values: np.ndarray) -> None:
        row = np.full(len(self.images), -1.0)
        row[self.order] = values[self.order]
        self.table.append(row)

    def step(self) -> None:
        number = len(self.images)
        size = max(
            len(self.order) - int(number * (1 - 0.7) / 6), int(0.7 * number)
        )
        table = np.stack(self.table)
        times = (table > 0).sum(0)
        mean = table.clip(min=0).sum(0) / times
        ranked = np.argsort(-(mean * (times / 40) ** 0.03), kind='stable')
        lost = ranked[size : len(self.order)]
        self.order = ranked[:size]
        last = self.order[-len(lost) :]
        mixed = {}
        for i, (own, other) in enumerate(zip(last, lost, strict=True)):
            part = np.float32(0.3) * np.float32((len(lost) - i) / len(lost))
            part += np.float32(0.7)
            mixed[own] = (
                part * self.images[own] + (1 - part) * self.images[other]
            ).astype(np.uint8)
        for own, image in mixed.items():
            self.images[own] = image


def values_of_epoch(epoch: int) -> np.ndarray:
    """Values of every second sample fall, so that others overtake them."""
    base = np.random.default_rng(99).uniform(1, 3, NUMBER)
    base[::2] /= 1 + epoch
    return base + np.random.default_rng(epoch).uniform(0, 0.1, NUMBER)


def test_equals_the_official_procedure():
    mix = MixDropped()
    dataset = Images(pipeline=[mix])
    images = np.stack([dataset[i]['img'] for i in range(NUMBER)])
    official = Official(images)
    ours = Condensation(NUMBER, 0.7, 6, 0.7)
    mix.follow(ours, dataset)
    back = set()
    for epoch in range(12):
        values = torch.full((NUMBER,), torch.nan)
        given = values_of_epoch(epoch)
        values[ours.kept] = torch.from_numpy(given).float()[ours.kept]
        ours.observe(values)
        official.epoch(given)
        if epoch % 2:
            before = set(ours.kept.tolist())
            ours.step()
            official.step()
            after = ours.kept.tolist()
            assert after == sorted(official.order)
            assert len(after) == NUMBER - 3 * (epoch + 1) // 2
            back |= {*after} - before
            for i in range(NUMBER):
                assert np.array_equal(dataset[i]['img'], official.images[i])
    assert back, 'a dropped sample has come back'
    # Mixtures of mixtures.
    assert (ours.partners >= 0).sum(0).max() > 1
    # Nothing more is dropped.
    assert len(ours.step()) == 0
    assert len(ours.kept) == 42


def test_states_go_on_where_they_were():
    one, other = (Condensation(NUMBER, 0.7, 6, 0.7) for _ in range(2))
    for epoch in range(4):
        one.observe(torch.from_numpy(values_of_epoch(epoch)))
        one.step()
        if epoch == 1:
            other.load_state(one.state())
        if epoch > 1:
            other.observe(torch.from_numpy(values_of_epoch(epoch)))
            other.step()
    for a, b in zip(flat(one.state()), flat(other.state()), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match='in 6 steps of 60 samples'):
        Condensation(50, 0.7, 6, 0.7).load_state(one.state())


def flat(state: dict[str, Any]) -> list[torch.Tensor]:
    found = []
    for value in state.values():
        found += map(
            torch.as_tensor, value if isinstance(value, list) else [value]
        )
    return found


def test_what_was_never_seen_is_kept():
    ours = Condensation(10, 0.5, 5, 0.7)
    values = torch.arange(10.0)
    values[0] = torch.nan
    ours.observe(values)
    ours.step()
    assert ours.kept.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert ours.partners[0].tolist() == [-1, -1, 1, *[-1] * 7]


def test_a_step_that_drops_nothing_is_refused():
    with pytest.raises(ValueError, match='less than one of 10 samples'):
        Condensation(10, 0.7, 6, 0.7)


@pytest.mark.parametrize('shuffle', [True, False])
def test_sampler_draws_as_the_default_one_from_what_is_kept(shuffle):
    dataset = range(20)
    ours = CondensedSampler(dataset, shuffle=shuffle, seed=3)
    plain = DefaultSampler(dataset, shuffle=shuffle, seed=3)
    for sampler in (ours, plain):
        sampler.set_epoch(5)
    assert list(ours) == list(plain)
    kept = [1, 4, 9, 16]
    ours.keep(kept)
    assert len(ours) == 4
    first = list(ours)
    assert sorted(first) == kept
    ours.set_epoch(6)
    assert sorted(ours) == kept
    assert (list(ours) == first) == (not shuffle)


def test_sampler_gives_all_ranks_equally_many(monkeypatch):
    given = []
    for rank in range(3):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info',
            lambda rank=rank: (rank, 3),
        )
        sampler = CondensedSampler(range(20), seed=0)
        sampler.keep([2, 3, 5, 7])
        assert len(sampler) == len(list(sampler)) == 2
        given += list(sampler)
    assert set(given) == {2, 3, 5, 7}


def test_blending_resizes_and_keeps_the_type():
    own = np.full((4, 6, 3), 100, np.uint8)
    other = np.full((2, 3, 3), 201, np.uint8)
    mixed = blend(own, other, 0.75)
    # Rounded down, as the official code does.
    assert mixed.dtype == np.uint8 and (mixed == 125).all()
    assert blend(own.astype(np.float32), other, 0.75).max() == 125.25


def test_without_a_condensation_nothing_is_mixed():
    plain, mixing = Images(pipeline=[]), Images(pipeline=[MixDropped()])
    assert np.array_equal(plain[3]['img'], mixing[3]['img'])
