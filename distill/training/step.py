"""One step of a stage, and one look at the held-out packs, over all processes.

An objective's loss is its sum over all packs of the step divided by its count over all of them, known before the first backward
pass: neither accumulation, nor the number of processes, nor what lies together in a pack changes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distill.training.job import Batch, Job
from distill.training.parallel import World, full
from distill.training.stream import LEARN, PREPARE, Dealt, reseed


@dataclass(frozen=True)
class Told:
    """What all processes agree on before a step."""

    counts: dict[str, float]
    tokens: int
    stop: bool


@dataclass(frozen=True)
class Report:
    """What a step found. totals: each pack's part of the total."""

    total: float
    objectives: dict[str, float]
    totals: list[float]
    gradient_norm: float
    told: Told


class Learner:
    """Knows the model and the processes; chance comes from `reseed`."""

    def __init__(self, job: Job, world: World, seed: int, clip: float) -> None:
        self.job, self.world, self.seed, self.clip = job, world, seed, clip
        self._learnt = [one for one in world.model.parameters() if one.requires_grad]

    def gradients(self, packs: int, dealt: Iterable[Dealt], asked: Callable[[], bool]) -> tuple[Report, list[Dealt]]:
        """Forward and backward over a step's packs; the report is the same on all processes. Also the batches as they were.
        asked: whether this process was told to stop."""
        prepared = [replace(one, batch=self._prepared(one)) for one in dealt]
        told = self._agree(prepared, asked())
        shares = {
            name: weight / told.counts[name] for name, weight in self.job.weights.items() if told.counts.get(name)
        }
        passed = [self._pass(one, shares, one is prepared[-1]) for one in prepared]
        norm = self._clipped()
        sums, totals, norm_told = self._gathered(sorted(told.counts), passed, norm, packs)
        means = {name: value / told.counts[name] for name, value in sums.items() if told.counts[name]}
        return Report(self._weighed(means), means, totals, norm_told, told), prepared

    def _prepared(self, one: Dealt) -> Batch:
        reseed(self.seed, self.job.name, PREPARE, one.one.epoch, one.one.place)
        batch = replace(one.batch, tensors=self.world.to_device(one.batch.tensors))
        if getattr(self.job, "on_policy", False):
            with self.world.whole():
                return self.job.prepare(batch)
        return self.job.prepare(batch)

    def _agree(self, prepared: list[Dealt], stop: bool) -> Told:
        mine = [one.batch for one in prepared if one.counts]
        told = self.world.told(([batch.counts for batch in mine], sum(batch.tokens for batch in mine), stop))
        counts = _added(one for packs, _, _ in told for one in packs)
        return Told(counts, sum(tokens for _, tokens, _ in told), any(asked for _, _, asked in told))

    def _pass(self, one: Dealt, shares: Mapping[str, float], last: bool) -> tuple[dict[str, Tensor], Tensor]:
        """A pack's sums, and its part of the total; a repeat's are zeros."""
        reseed(self.seed, self.job.name, LEARN, one.one.epoch, one.one.place)
        weight = 1.0 if one.counts else 0.0
        shares = {name: weight * share for name, share in shares.items()}
        total, sums = self.world.learn(one.batch.tensors, shares, last)
        return {name: weight * value for name, value in sums.items()}, total

    def _clipped(self) -> Tensor:
        """The gradient's norm before it is clipped. A parameter that no pack used gets zeros, as it would if processes shared
        the step and one of them used it."""
        for one in self._learnt:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        return full(nn.utils.clip_grad_norm_(self._learnt, self.clip or math.inf))

    def _gathered(
        self, names: list[str], passed: list[tuple[dict[str, Tensor], Tensor]], norm: Tensor, packs: int
    ) -> tuple[dict[str, float], list[float], float]:
        """Sums and packs' totals over all processes, and the norm, in one word with the device."""
        values = torch.zeros(len(names) + packs, device=self.world.device)
        for turn, (sums, total) in enumerate(passed):
            values[: len(names)] += torch.stack([sums[name] for name in names])
            place = turn * self.world.size + self.world.rank
            if place < packs:
                values[len(names) + place] = total
        *told, norm_told = torch.cat([self.world.summed(values), norm.reshape(1)]).tolist()
        return dict(zip(names, told, strict=False)), told[len(names) :], norm_told

    def _weighed(self, means: Mapping[str, float]) -> float:
        return sum((weight * means[name] for name, weight in self.job.weights.items() if name in means), 0.0)

    @torch.no_grad()
    def held_out(self, dealt: Iterable[Dealt]) -> tuple[float, dict[str, float]]:
        """The total and the objectives' means over the held-out packs."""
        self.world.model.eval()
        sums, counts = [], []
        for one in dealt:
            batch = self._prepared(one)
            reseed(self.seed, self.job.name, LEARN, one.one.epoch, one.one.place)
            with self.world.arithmetic():
                given = self.world.model(**batch.tensors)
            if one.counts:
                sums.append({name: float(value) for name, value in given.items()})
                counts.append(batch.counts)
        self.world.part()
        self.world.model.train()
        told = self.world.told((sums, counts))
        summed, counted = (_added(one for each in told for one in each[part]) for part in range(2))
        means = {name: summed[name] / counted[name] for name in sorted(counted) if counted[name]}
        return self._weighed(means), means


def _added(many: Iterable[Mapping[str, float]]) -> dict[str, float]:
    added: Counter[str] = Counter()
    for one in many:
        for name, value in one.items():
            added[name] += value  # type: ignore[assignment]
    return dict(added)


def update(optimizers: list[Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
