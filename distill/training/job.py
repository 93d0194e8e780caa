"""What a stage gives to the loop: its model, its packs, its objectives, and how long and how fast it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_type_hints

from cascade.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

HELD_OUT = -1  # in place of an epoch: no augmentation


@dataclass(frozen=True)
class Batch:
    """A pack, ready for the model."""

    tensors: dict[str, Any]  # what model(**tensors) takes; the loop moves them to the device
    counts: dict[str, float]  # by objective: how many items its sum is over; 0: this batch has none
    tokens: int  # real tokens (or frames) in it


class Job(Protocol):
    """One stage of training. All its chance comes from (seed, epoch, pack) and, inside the model, from torch's global
    generator, which the loop seeds anew before every pack.

    Optional, found by name:
    - `flops_per_token: float`: forward and backward, per token of `Batch.tokens`; then the loop shows the model's use of the
      device.
    - `on_policy: bool`: `prepare` runs the model, whose weights are made whole for that under FSDP2.
    - `model.gradient_checkpointing_enable()`.
    - `model.shards() -> Iterable[nn.Module]`: modules that *every* batch runs through, in the same order: FSDP2 shards them
      one by one and `compile` compiles each. Without it the model is one shard, compiled as a whole.
    """

    @property
    def name(self) -> str:
        """One of stages.STAGES."""
        ...

    @property
    def model(self) -> nn.Module:
        """model(**tensors): each objective's *sum* over the batch; what does not train needs no gradient."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """By objective; one that is not here is only watched."""
        ...

    def packs(self, epoch: int) -> Sequence[Any]:
        """The epoch's packs in order; the same for the same (seed, epoch)."""
        ...

    def held_out(self) -> Sequence[Any]: ...

    def batch(self, pack: Any, epoch: int) -> Batch:
        """Must not touch the model: it may run in a thread beside it. Epoch `HELD_OUT`: without augmentation."""
        ...

    def prepare(self, batch: Batch) -> Batch:
        """With the model's help, on the device, e.g. sampling on policy; usually the batch as it is."""
        ...

    def samples(self, folder: Path) -> None:
        """Write sounds and texts to look at into `folder`, which is there."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How a stage learns. Give `steps` or `epochs`. Raises ConfigError."""

    learning_rate: float
    steps: int | None = None
    epochs: float | None = None
    packs_per_step: int = 1  # over all processes
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of layers; AdamW for the rest
    muon_rate: float = 5.0  # × the learning rate, for what Muon learns: its steps are small where AdamW's rate fits
    rates: Mapping[str, float] = field(default_factory=dict)  # by prefix of parameters' names: × the learning rate
    decay: Literal["cosine", "linear"] = "cosine"
    warmup_steps: int = 0
    final_share: float = 0.05  # of the learning rate, in the last step
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0  # of the gradient's norm; 0: none
    ema: float = 0.0  # how much of the weights' moving average stays in each step, which is then what is kept; 0: none
    evaluate_every: int = 100
    save_every: int = 100
    samples_every: int = 0  # 0: at the end only
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; weights that train stay float32
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    threads: int = 0  # that make batches ahead; 0: each is made when it is due

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError("a schedule has steps or epochs: give one of them")
        whole = {"packs_per_step": 1, "evaluate_every": 1, "save_every": 1, "samples_every": 0, "warmup_steps": 0}
        for name, least in {**whole, "threads": 0, "clip": 0, "weight_decay": 0, "final_share": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: give {least} or more")
        for name in ("learning_rate", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} = {value}: give more than 0")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema = {self.ema}: give 0 (none) or more, and less than 1")
        _check_choices(self)

    def total_steps(self, packs: int) -> int:
        """`packs`: of the first epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * packs / self.packs_per_step))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 1 … steps: up in a line, then down along half a cosine (Loshchilov and Hutter 2017,
        equation 5) or in a line to `final_share` of it."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        passed = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        left = 0.5 * (1 + math.cos(math.pi * passed)) if self.decay == "cosine" else 1 - passed
        return self.learning_rate * (self.final_share + (1 - self.final_share) * left)


FREE = (
    "parallel",
    "threads",
    "gradient_checkpointing",
    "save_every",
    "samples_every",
)  # a resumed run may differ


def _check_choices(schedule: Schedule) -> None:
    kinds = get_type_hints(Schedule)
    for name in ("optimizer", "decay", "dtype", "parallel"):
        legal = get_args(kinds[name])
        if getattr(schedule, name) not in legal:
            raise ConfigError(f"{name} = {getattr(schedule, name)!r}: choose {' or '.join(legal)}")


def identity(schedule: Schedule) -> dict[str, Any]:
    """What of a schedule decides the curve."""
    values = {one.name: getattr(schedule, one.name) for one in fields(schedule) if one.name not in FREE}
    return values | {"rates": dict(schedule.rates), "betas": list(schedule.betas)}


@dataclass(frozen=True)
class Result:
    """How a stage went. Totals are of the held-out packs: the weighted sum of the objectives' means."""

    steps: int
    first_total: float  # before the first step
    best_total: float
    best_step: int
    last_total: float
    tokens: int  # real ones learnt from
    seconds: float  # in training steps alone
    peak_bytes: int | None  # of a GPU's memory; None on a CPU
