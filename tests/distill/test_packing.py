"""Packs and mixtures: properties over random draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cascade.errors import ConfigError, InputError
from distill.training.packing import mixture, packs, waste


def drawn(seed: int) -> tuple[list[int], int]:
    chance = np.random.default_rng(seed)
    capacity = int(chance.integers(10, 5000))
    lengths = chance.integers(1, capacity + 1, int(chance.integers(0, 300)))
    return lengths.tolist(), capacity


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_item_once_and_no_pack_too_full(shuffle: bool) -> None:
    for seed in range(60):
        lengths, capacity = drawn(seed)
        made = packs(lengths, capacity, seed=seed, epoch=seed % 5, shuffle=shuffle)
        assert sorted(item for pack in made for item in pack) == list(range(len(lengths)))
        assert all(0 < sum(lengths[item] for item in pack) <= capacity for pack in made)
        assert made == packs(lengths, capacity, seed=seed, epoch=seed % 5, shuffle=shuffle)


def speech_lengths(count: int) -> list[int]:
    drawn = np.random.default_rng(1).lognormal(5.7, 0.5, count)
    return np.clip(drawn, 20, 1500).astype(int).tolist()  # type: ignore[no-any-return]


def test_little_room_is_wasted() -> None:
    lengths = speech_lengths(2000)
    made = packs(lengths, 4096, seed=0, epoch=0)
    assert waste(lengths, made, 4096) < 0.02
    one_each = [[item] for item in range(len(lengths))]
    assert waste(lengths, one_each, 4096) == pytest.approx(1 - np.mean(lengths) / 4096)
    assert waste([], [], 10) == 0.0


def test_like_lengths_lie_together() -> None:
    lengths = speech_lengths(2000)
    made = packs(lengths, 4096, seed=0, epoch=0)
    spread = np.mean([max(lengths[i] for i in pack) / np.mean([lengths[i] for i in pack]) for pack in made])
    assert spread < 1.3 < max(lengths) / np.mean(lengths) - 1


def test_epochs_differ_in_packs_and_order() -> None:
    lengths = speech_lengths(300)
    first, second = (packs(lengths, 4096, seed=0, epoch=epoch) for epoch in (0, 1))
    same = {frozenset(pack) for pack in first} & {frozenset(pack) for pack in second}
    assert len(same) < len(first) / 5  # a few long items may meet again
    longest = [max(lengths[item] for item in pack) for pack in first]
    assert longest != sorted(longest, reverse=True)
    assert first != packs(lengths, 4096, seed=1, epoch=0)
    unshuffled = [packs(lengths, 4096, seed=0, epoch=epoch, shuffle=False) for epoch in (0, 1)]
    assert unshuffled[0] == unshuffled[1]


def test_an_item_that_fits_no_pack() -> None:
    with pytest.raises(InputError, match="item 1 is 11 long and a pack holds 10; give packs of at least 11"):
        packs([3, 11, 4], 10, seed=0, epoch=0)
    assert packs([10], 10, seed=0, epoch=0) == [[0]]


def test_a_mixture_repeats_and_samples() -> None:
    sizes = {"dialogue": 40, "speak": 10, "asr": 40}
    weights = {"dialogue": 1.0, "speak": 2.5, "asr": 0.25}
    for epoch in range(4):
        items = mixture(sizes, weights, seed=3, epoch=epoch)
        assert items == mixture(sizes, weights, seed=3, epoch=epoch)
        assert Counter(name for name, _ in items) == {"dialogue": 40, "speak": 25, "asr": 10}
        assert {place for name, place in items if name == "dialogue"} == set(range(40))
    first, second = (mixture(sizes, weights, seed=3, epoch=epoch) for epoch in (0, 1))
    assert set(first) != set(second)


def test_over_the_epochs_all_items_come_equally_often() -> None:
    for seed in range(20):
        chance = np.random.default_rng(seed)
        size, weight, epochs = int(chance.integers(1, 30)), float(chance.uniform(0.05, 3)), int(chance.integers(1, 12))
        seen: Counter[int] = Counter()
        for epoch in range(epochs):
            both = mixture({"some": size, "other": 1}, {"some": weight, "other": 1}, seed=seed, epoch=epoch)
            seen.update(place for name, place in both if name == "some")
        counts = [seen[place] for place in range(size)]
        assert max(counts) - min(counts) <= 1
        assert abs(sum(counts) - epochs * size * weight) < 1


def test_a_source_does_not_depend_on_the_others() -> None:
    alone = mixture({"a": 9}, {"a": 0.5}, seed=0, epoch=2)
    beside = mixture({"b": 5, "a": 9}, {"a": 0.5, "b": 1}, seed=0, epoch=2)
    assert [item for item in beside if item[0] == "a"] == alone


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tone": 1.0}, "mixture of 'tone'; the sources are a, b"),
        ({"a": -1.0}, "weight -1.0 of a"),
        ({"a": float("nan")}, "weight nan of a"),
        ({"a": 0.0}, "no items"),
        ({}, "no items"),
    ],
)
def test_what_is_no_mixture(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixture({"a": 3, "b": 2}, weights, seed=0, epoch=0)
