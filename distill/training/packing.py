"""Which items an epoch trains on, and in which packs: pure functions of their arguments, the seed and the epoch."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from cascade.errors import ConfigError, InputError

__all__ = ["mixture", "packs", "waste"]

JITTER = 0.1  # lengths are sorted after this much noise, so that each epoch has other neighbours
OPEN_PACKS = 256  # a later, shorter item may fill one of the last so many packs: under 2 % of the room stays empty


def packs(lengths: Sequence[int], capacity: int, *, seed: int, epoch: int, shuffle: bool = True) -> list[list[int]]:
    """Items (by place) in packs whose lengths sum to at most `capacity`; each item once, like lengths together.

    Best fit decreasing (Johnson, 1973) among the last OPEN_PACKS packs. With `shuffle` each epoch has other packs in another
    order; without, longest first and always the same. Raises InputError: an item that fits no pack.
    """
    _check(lengths, capacity)
    noise = np.random.default_rng([seed, epoch])
    spread = JITTER if shuffle else 0.0
    keys = np.asarray(lengths, np.float64) * noise.uniform(1 - spread, 1 + spread, len(lengths))
    made: list[list[int]] = []
    room: list[int] = []
    for item in np.argsort(-keys, kind="stable").tolist():
        recent = range(max(0, len(made) - OPEN_PACKS), len(made))
        fitting = [pack for pack in recent if room[pack] >= lengths[item]]
        if fitting:
            fullest = min(fitting, key=room.__getitem__)
            made[fullest].append(item)
            room[fullest] -= lengths[item]
        else:
            made.append([item])
            room.append(capacity - lengths[item])
    return [made[pack] for pack in noise.permutation(len(made))] if shuffle else made


def _check(lengths: Sequence[int], capacity: int) -> None:
    longest = max(lengths, default=0)
    if longest > capacity:
        raise InputError(
            f"item {list(lengths).index(longest)} is {longest} long and a pack holds {capacity}; "
            f"give packs of at least {longest}, or leave longer items out"
        )


def waste(lengths: Sequence[int], made: Sequence[Sequence[int]], capacity: int) -> float:
    """Share of all packs' room that holds nothing, 0 to 1."""
    held = sum(lengths[item] for pack in made for item in pack)
    return 1 - held / (capacity * len(made)) if made else 0.0


def mixture(sizes: Mapping[str, int], weights: Mapping[str, float], *, seed: int, epoch: int) -> list[tuple[str, int]]:
    """An epoch's items as (source, place), source after source, to be packed.

    A weight says how often an epoch holds each item of its source: 1 once, 2 twice, 0.25 a quarter of them, 0 or not named none.
    Epochs draw on without a gap: a source's items are dealt out one shuffled deck after another, so that over the epochs each
    is seen as often as any other. Raises ConfigError: a source that is not there, a weight that is no number from 0 on, no items.
    """
    for name, weight in weights.items():
        if name not in sizes:
            raise ConfigError(f"mixture of {name!r}; the sources are {', '.join(sizes)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"weight {weight} of {name}; give a number from 0 on")
    items = [
        (name, place)
        for name, size in sizes.items()
        for place in _dealt(name, size, weights.get(name, 0.0), seed=seed, epoch=epoch)
    ]
    if not items:
        raise ConfigError(f"epoch {epoch} has no items; raise a weight of {', '.join(sizes) or 'a source'}")
    return items


def _dealt(name: str, size: int, weight: float, *, seed: int, epoch: int) -> list[int]:
    """Places [start, end) of the endless row of decks."""
    start, end = math.floor(epoch * size * weight), math.floor((epoch + 1) * size * weight)
    if start == end:
        return []
    first, last = start // size, (end - 1) // size
    decks = [
        np.random.default_rng([seed, zlib.crc32(name.encode()), deck]).permutation(size)
        for deck in range(first, last + 1)
    ]
    places: list[int] = np.concatenate(decks)[start - first * size : end - first * size].tolist()
    return places
