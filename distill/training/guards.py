"""What keeps a run from going wrong in silence: whose folder it is, losses that are not numbers or run away, signals."""

from __future__ import annotations

import json
import math
import signal
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file

from distill.run_folder import check_run, locked
from distill.training.job import Batch
from distill.training.parallel import is_first

BAD_BATCH = "bad-batch"


class Stopped(Exception):
    """A signal ended training; all is saved. The line says how to go on. Exit 130."""


@contextmanager
def open_run(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
    """The run's folder for this run alone. `settings` (JSON) are written first. Raises InputError: a run is there and `resume`
    was not said, or it is another, or the folder holds something else."""
    with locked(folder) if is_first() else nullcontext():
        if is_first():
            check_run(folder, settings, resume=resume)
        yield


@dataclass
class Divergence:
    """Notices a loss that runs away: among steps like this one, the median of the last RECENT lies above FACTOR times the median
    of the WINDOW before them, does not fall, and is no small wave of a loss that had sunk far below where it began.

    Alike are steps with the same objectives: each counts as its own mean, so how much of a step is what does not matter, but one
    without sound loses far less than one with it.
    """

    window: int = 50
    recent: int = 5
    factor: float = 3.0
    share: float = 0.25  # of the first window's median: what lies below is small
    _alike: dict[frozenset[str], _Totals] = field(default_factory=dict, init=False)

    def sees(self, total: float, objectives: Iterable[str]) -> bool:
        """Tell it each step's loss and what it is the sum of, in order."""
        totals = self._alike.setdefault(frozenset(objectives), _Totals([], deque(maxlen=self.window + self.recent)))
        totals.last.append(total)
        if len(totals.first) < self.window:
            totals.first.append(total)
        if len(totals.last) < self.window + self.recent:
            return False
        before, now = list(totals.last)[: self.window], list(totals.last)[self.window :]
        centre, level = statistics.median(before), statistics.median(now)
        spread = statistics.median(abs(value - centre) for value in before)
        scale = max(abs(centre), 3 * spread)  # a loss around zero is judged by its own noise
        begun = abs(statistics.median(totals.first))
        return now[-1] >= now[0] and level > centre + (self.factor - 1) * scale and level > self.share * begun


@dataclass(frozen=True)
class _Totals:
    first: list[float]
    last: deque[float]


def save_bad_batch(stage: Path, batch: Batch, facts: Mapping[str, Any]) -> Path:
    """RUN/<stage>/bad-batch.safetensors and .json, to look at and to try again."""
    tensors, others = {}, {}
    for name, value in _leaves(batch.tensors):
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().clone().contiguous()
        else:
            others[name] = repr(value)
    path = stage / f"{BAD_BATCH}.safetensors"
    save_file(tensors, path)
    shown = {**facts, "counts": batch.counts, "tokens": batch.tokens, "other_inputs": others}
    path.with_suffix(".json").write_text(json.dumps(shown, indent=1, default=repr) + "\n", encoding="utf-8")
    return path


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        pairs: list[tuple[Any, Any]] = list(value.items())
    elif is_dataclass(value):
        pairs = [(one.name, getattr(value, one.name)) for one in fields(value)]
    elif isinstance(value, (list, tuple)):
        pairs = list(enumerate(value))
    else:
        yield name, value
        return
    for key, one in pairs:
        yield from _leaves(one, f"{name}.{key}".lstrip("."))


def worst(totals: list[float]) -> int:
    """The pack to look at: the first whose loss is no number, else the one that lost most."""
    odd = [place for place, total in enumerate(totals) if not math.isfinite(total)]
    return odd[0] if odd else max(range(len(totals)), key=totals.__getitem__)


class Stop:
    """Set by Ctrl-C and SIGTERM; the loop looks after each step. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
