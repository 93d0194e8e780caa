"""The mean of the weights along the way, which is often better than any of the points it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distill.training.parallel import learnt


class Average:
    """The exponential moving average of what learns (Polyak and Juditsky 1992), kept beside the model in the same shards.
    decay: how much of it stays in each step; 0.995 looks back over some 200 steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.means = {name: one.detach().clone() for name, one in learnt(model).items()}

    @torch.no_grad()
    def follow(self) -> None:
        """After each step. What is no number to average (counts) is as it is now."""
        for name, one in learnt(self._model).items():
            if one.is_floating_point():
                self.means[name].lerp_(one, 1 - self._decay)
            else:
                self.means[name].copy_(one)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the mean's weights; afterwards its own."""
        own = {name: one.detach().clone() for name, one in learnt(self._model).items()}
        self._take(self.means)
        try:
            yield
        finally:
            self._take(own)

    @torch.no_grad()
    def _take(self, weights: dict[str, Tensor]) -> None:
        for name, one in learnt(self._model).items():
            one.copy_(weights[name])
