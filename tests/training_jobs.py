"""A small job for the training loop: a residual network of layers that learns to place points, and marks some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.training.job import HELD_OUT, Batch

WIDTH = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(WIDTH, WIDTH), 0.1

    def forward(self, x: Tensor) -> Tensor:  # [N, WIDTH]
        out: Tensor = x + functional.dropout(torch.tanh(self.inner(x)), self.drop, self.training)
        return out


class Model(nn.Module):
    """`place` is over all points, `mark` over those that have a mark, often none; `seen` is only watched."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.frozen = nn.Linear(4, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.place, self.mark = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 3)
        self.frozen.requires_grad_(False)

    def shards(self) -> Iterable[nn.Module]:
        return self.layers

    def forward(self, points: Tensor, targets: Tensor, marks: Tensor) -> dict[str, Tensor]:
        hidden = self.frozen(points)
        for layer in self.layers:
            hidden = layer(hidden)
        off = functional.mse_loss(self.place(hidden), targets, reduction="sum")
        marked = marks >= 0
        sums = {"place": off, "seen": hidden.abs().sum(), "mark": off.new_zeros(())}
        if marked.any():
            sums["mark"] = functional.cross_entropy(self.mark(hidden[marked]), marks[marked], reduction="sum")
        return sums


class Points:
    """`size` packs of `length` points. A pack is a tuple of numbers of points; every third of them carries marks."""

    name = "speak"
    flops_per_token = 6.0 * 200

    def __init__(self, size: int = 6, length: int = 4, name: str = "speak", spoiled: int | None = None) -> None:
        self.name, self.size, self.length, self.spoiled = name, size, length, spoiled
        self.model: nn.Module = Model()
        self.weights = {"place": 1.0, "mark": 0.5}

    def packs(self, epoch: int) -> Sequence[Any]:
        order = np.random.default_rng((1, epoch)).permutation(self.size)
        return [tuple(range(self.length * pack, self.length * (pack + 1))) for pack in order.tolist()]

    def held_out(self) -> Sequence[Any]:
        return [tuple(range(1000 + 5 * pack, 1005 + 5 * pack)) for pack in range(3)]

    def batch(self, pack: Any, epoch: int) -> Batch:
        points = torch.stack([torch.from_numpy(np.random.default_rng(one).standard_normal(4)).float() for one in pack])
        if epoch != HELD_OUT:
            points += (
                0.01 * torch.from_numpy(np.random.default_rng((epoch, *pack)).standard_normal(points.shape)).float()
            )
        if self.spoiled in pack:
            points[0, 0] = float("nan")
        targets = torch.stack([points[:, 0] * points[:, 1], points[:, 2].abs()], dim=1)
        marks = torch.tensor([one % 3 if one // self.length % 3 == 0 else -1 for one in pack])
        count = float(len(pack))
        counts = {"place": 2 * count, "seen": WIDTH * count, "mark": float((marks >= 0).sum())}
        return Batch({"points": points, "targets": targets, "marks": marks}, counts, len(pack))

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def samples(self, folder: Path) -> None:
        with torch.no_grad():
            hidden = self.model.layers[0](torch.ones(1, WIDTH))  # type: ignore[index,operator]
        (folder / "seen.txt").write_text(f"{float(hidden.sum()):.6f}\n")


class OnPolicy(Points):
    """Learns towards what its model says itself; a pack's turns of the model differ, as sentences do in length."""

    on_policy = True

    def prepare(self, batch: Batch) -> Batch:
        points, targets = batch.tensors["points"], batch.tensors["targets"]
        with torch.no_grad():
            hidden = self.model.frozen(points)  # type: ignore[operator]
            for _ in range(1 + int(points.abs().sum()) % 3):
                hidden = self.model.layers[0](hidden)  # type: ignore[index,operator]
            said = self.model.place(hidden)  # type: ignore[operator]
        return Batch({**batch.tensors, "targets": targets + 0.1 * said}, batch.counts, batch.tokens)
