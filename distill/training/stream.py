"""Which packs a step learns from, and which process has which: the same for the same seed, whoever asks."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from cascade.errors import InputError
from distill.training.job import HELD_OUT, Batch, Job

LEARN, PREPARE, SAMPLES = range(3)  # what the generator is seeded for
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """A pack and where it comes from."""

    epoch: int
    place: int
    pack: Any


@dataclass(frozen=True)
class Step:
    """The packs of a step over all processes, and the place that follows them."""

    number: int
    packs: list[Place]
    after: tuple[int, int]


@dataclass(frozen=True)
class Dealt:
    """A pack in this process's hand. counts: False for a repeat that only keeps the process in step with the others."""

    one: Place
    batch: Batch
    counts: bool


def steps(job: Job, packs_per_step: int, numbers: range, start: tuple[int, int]) -> Iterator[Step]:
    """Epochs follow each other as one stream, so that every step is full. Raises InputError: an epoch without packs."""
    epoch, place = start
    packs = some(job.packs(epoch), job.name, "to learn from")
    for number in numbers:
        chosen: list[Place] = []
        while len(chosen) < packs_per_step:
            if place >= len(packs):
                epoch, place = epoch + 1, 0
                packs = some(job.packs(epoch), job.name, "to learn from")
            chosen.append(Place(epoch, place, packs[place]))
            place += 1
        yield Step(number, chosen, (epoch, place))


def held_out(job: Job) -> list[Place]:
    packs = some(job.held_out(), job.name, "held out")
    return [Place(HELD_OUT, place, pack) for place, pack in enumerate(packs)]


def some(packs: Sequence[Any], name: str, what: str) -> Sequence[Any]:
    if not packs:
        raise InputError(
            f"{name}: the dataset has nothing {what} for this stage; teach more turns, or leave the stage out"
        )
    return packs


def deal(job: Job, packs: Sequence[Place], rank: int, size: int) -> Iterator[Dealt]:
    """In turn; every process gets as many."""
    for start in range(0, len(packs), size):
        counts = start + rank < len(packs)
        one = packs[start + rank] if counts else packs[0]
        yield Dealt(one, job.batch(one.pack, one.epoch), counts)


def ahead(make: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """What `make` makes of the items, in order; with threads, made before it is asked for."""
    if not threads:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="batches") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def reseed(seed: int, stage: str, use: int, epoch: int, place: int) -> None:
    """Torch's generators, from these alone: chance in a pack depends neither on what ran before nor on who runs it."""
    entropy = (seed, zlib.crc32(stage.encode()), use, epoch - HELD_OUT, place)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))
