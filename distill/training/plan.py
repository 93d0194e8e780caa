"""What a run will take, before it: parameters, what trains, memory, operations, steps and time.

Nothing is trained, and no weight is read but those of a voice behind which a decoder learns on: networks are built without
memory, packs are made from the texts and durations that a dataset holds. Only a small student is really built, for a few steps on
this machine that tell its speed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from cascade.errors import ConfigError
from distill.teaching.progress import span
from distill.training.assemble import check_codec, codec_to_train, fitted, new_codec, set_training, texts_of
from distill.training.codec_job import CROP_S, CROPS_PER_PACK, Resynthesis
from distill.training.costs import Load, kept_bytes, load_of, state_bytes, work_of
from distill.training.data import Dataset, Row, Voice, open_datasets
from distill.training.decoder_job import DecoderJob
from distill.training.job import Batch, Schedule
from distill.training.optimizers import table
from distill.training.order import Order, found
from distill.training.progress import PEAKS, peak_flops
from distill.training.refine import RefineJob
from distill.training.stages import Stage
from distill.training.student_job import StudentJob, rows_of
from e2e_model.build import build
from e2e_model.codec import MimiCodec, load_codec
from e2e_model.config import Config
from e2e_model.features import MELS_HZ
from e2e_model.model import PARTS, SpeechLM
from e2e_model.prompts import Prompter
from e2e_model.tokenizer import Speller, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from distill.training.prepared import Prepared

PACKS = 6  # looked at, of an epoch
SMALL = 100e6  # parameters: such a student is timed, a larger one's time is worked out
MFU = 0.4  # assumed share of a device's best
TIMED = 2  # steps, after one to warm up
STAND_IN_TOKENS = 8000  # of a tokenizer that stands in where the thinker's own is not at hand
GIB = 2**30


@dataclass(frozen=True)
class StagePlan:
    """One stage. Bytes are on one device, for one pack; activations: kept for the backward pass; slim: of them, with gradient
    checkpointing. seconds: of training steps alone, with evaluations and samples left out."""

    name: str
    trains: dict[str, int]  # parameters that learn, by part
    weights: int
    gradients: int
    moments: int
    activations: int
    slim: int
    tokens_per_epoch: int
    packs_per_epoch: int
    steps: int
    tokens: int  # in all steps
    flops_per_token: float
    tokens_per_s: float | None
    seconds: float | None
    measured: bool  # else: from the device's peak


@dataclass(frozen=True)
class Plan:
    """A run, before it."""

    flavour: str
    rows: int
    parameters: dict[str, int]  # by part, with the codec
    device: str
    dtype: str
    gradient_checkpointing: bool
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan_of(order: Order, *, device: str | None = None, timed: bool = True) -> Plan:
    """device: one of progress.PEAKS, in place of this machine; timed: small students take a few steps here.

    Raises InputError, ConfigError, StudentError as the run would.
    """
    order = found(order)
    dataset = open_datasets(order.data)
    config = fitted(order.config, dataset)
    lm, notes = bare_student(config, dataset, _bare_codec(order))
    parameters = {name: sum(p.numel() for _, p in lm.part_parameters(name)) for name in PARTS}
    parameters["codec"] = sum(p.numel() for p in lm.codec.parameters())
    timed = timed and device is None and sum(parameters.values()) < SMALL
    bench = Bench(order, lm, dataset, timed, _usual(device, order.dtype))
    stages = tuple(
        bench.codec() if name == "codec" else bench.student(order.stage(name))
        for name in order.stages
        if name != "codec" or order.makes_codec or order.decodes
    )
    if any(stage.tokens_per_s and not stage.measured for stage in stages):
        notes.append(f"Speeds with ~ are not measured: {MFU:.0%} of the device's best is assumed.")
    kind = device or (torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    count = len(rows_of(dataset, order.by_heart)[0])
    options = order.dtype, order.gradient_checkpointing
    return Plan(config.flavour, count, parameters, kind, *options, stages, tuple(notes))


def _usual(device: str | None, dtype: str) -> float | None:
    """Operations a second that may be hoped for."""
    if device is None:
        peak = peak_flops(_here(), getattr(torch, dtype))
    elif device in PEAKS:
        peak = 1e12 * PEAKS[device][dtype != "bfloat16"]
    else:
        raise ConfigError(f"device {device!r}: its speed is not known here; choose {', '.join(PEAKS)}")
    return MFU * peak if peak else None


def _here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bare_student(config: Config, dataset: Dataset, codec: Any) -> tuple[SpeechLM, list[str]]:
    """A student of shapes alone, with a tokenizer that works, and what is to be said about them."""
    tokenizer, size, notes = _tokenizer(config, dataset)
    with torch.device("meta"):
        lm = build(config, codec, range(size), pretrained=False)
    lm.speller = Speller(tokenizer, config.encoder.ctc, config.talker.units)
    lm.prompter = Prompter(lm.speller)
    lm.emotion_frames = lambda samples: np.zeros((len(samples) // 320, config.emotion_encoder.size), np.float32)
    return lm, notes


def _tokenizer(config: Config, dataset: Dataset) -> tuple[Any, int, list[str]]:
    """What makes rows of texts, and how many tokens the student's own has."""
    if not config.vocabulary and config.thinker.source and Path(config.thinker.source).is_dir():
        own = load_tokenizer(config.thinker.source, "the thinker")
        return own, len(own), []
    made = train_tokenizer(texts_of(dataset.rows("train")), config.vocabulary or STAND_IN_TOKENS)
    if config.vocabulary:
        return made, len(made), []
    source, size = config.thinker.source, int(config.thinker.model["vocab_size"])
    return made, size, [f"{source} is not at hand: its tokens are counted by a tokenizer trained on this dataset."]


def _bare_codec(order: Order) -> Any:
    """A codec of the shapes the run will have. Mimi's published configuration is transformers' default."""
    config = order.config.codec
    if config.kind == "fsq":
        return load_codec(order.codec) if order.codec else new_codec(order.config, order.seed)
    file = (order.codec or Path(config.source or "")) / "config.json"
    with torch.device("meta"):
        return MimiCodec(json.loads(file.read_bytes()) if file.is_file() else {}, config.codebooks)


class Lengths:
    """In place of Prepared: silence of the right length, from the durations of a dataset's rows."""

    def __init__(self, config: Config, codec: Any) -> None:
        self._mels, self._codec = config.mels, codec

    def mel_frames(self, row: Row, whose: Voice = "user") -> int:
        return round(((row.user_duration_s if whose == "user" else row.reply_duration_s) or 0) * MELS_HZ)

    def code_frames(self, row: Row) -> int:
        return math.ceil((row.reply_duration_s or 0) * float(self._codec.frame_rate))

    def mel(self, row: Row, whose: Voice = "user") -> Any:
        return np.zeros((self.mel_frames(row, whose), self._mels), np.float16)

    def codes(self, row: Row) -> Any:
        return np.zeros((self._codec.codebooks, self.code_frames(row)), np.int16)


class Bench:
    """Plans the stages of one order."""

    def __init__(self, order: Order, lm: SpeechLM, dataset: Dataset, timed: bool, usual: float | None) -> None:
        self._order, self._lm, self._dataset, self._usual = order, lm, dataset, usual
        self._device, self._dtype = _here(), getattr(torch, order.dtype)
        self._real = _real(lm) if timed else None

    def student(self, stage: Stage) -> StagePlan:
        job = self._job(stage, self._lm)
        packs = job.packs(0)
        loads = [load_of(self._lm, job.batch(pack, 0)) for pack in packs[:PACKS]]
        tokens = sum(load.tokens for load in loads)
        operations = sum(part.total for load in loads for part in work_of(self._lm, load).values())
        fullest: Load = max(loads, key=lambda load: load.tokens)
        whole, slim = kept_bytes(self._lm, fullest, self._dtype)
        rate = self._rate(self._job(stage, self._real), packs) if self._real else None
        return self._planned(
            stage, job.model, whole, slim, len(packs), tokens / len(loads), operations / tokens, rate,
            {name: _learning(getattr(self._lm, name)) for name in PARTS},
        )  # fmt: skip

    def _job(self, stage: Stage, lm: SpeechLM) -> StudentJob:
        set_training(lm, stage.parts(pretrained=lm.config.thinker.source is not None, freeze=self._order.freeze))
        kind = RefineJob if stage.name == "refine" else StudentJob
        order, lengths = self._order, cast("Prepared", Lengths(lm.config, lm.codec))
        given: dict[str, Any] = {"capacity": order.capacity, "seed": order.seed, "by_heart": order.by_heart}
        return kind(stage, lm, self._dataset, lengths, chance=order.chance, **given)

    def codec(self) -> StagePlan:
        """Attune's own is small: one pack is really made, counted and timed."""
        from torch.utils.flop_counter import FlopCounterMode

        model, batch, packs = self._decoding() if self._order.decodes and self._order.voice else self._resynthesis()
        model.to(self._device)
        given = send_to_device(batch.tensors, self._device)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter, self._arithmetic():
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                total = torch.stack([*model(**given).values()]).sum()
            torch.autograd.backward(total)
        operations = counter.get_total_flops()
        rate = self._timed(lambda: model(**given), batch.tokens) if self._real else None
        bytes_ = sum(kept.values())
        return self._planned(
            self._order.stage("codec"), model, bytes_, bytes_, packs, batch.tokens, operations / batch.tokens, rate,
            {"codec": _learning(model)},
        )  # fmt: skip

    def _resynthesis(self) -> tuple[nn.Module, Batch, int]:
        """What learns from sounds alone, a pack of noise for it, and how many packs an epoch has."""
        codec = codec_to_train(self._order.config, self._order.seed, self._order.codec)
        wave = torch.randn(CROPS_PER_PACK, round(CROP_S * codec.sample_rate))
        sounds = sum(bool(row.reply_duration_s) for row in self._rows())
        batch = Batch({"wave": wave}, {}, wave.numel() // codec.samples_per_frame)
        return Resynthesis(codec), batch, math.ceil(sounds / CROPS_PER_PACK)

    def _decoding(self) -> tuple[nn.Module, Batch, int]:
        """The same for a voice that is there."""
        assert self._order.voice is not None
        order, lm = self._order, SpeechLM.from_pretrained(self._order.voice, device="cpu")
        codec = codec_to_train(order.config, order.seed, order.codec)
        check_codec(codec, lm.codec, self._order.voice)
        lengths = cast("Prepared", Lengths(lm.config, lm.codec))
        job = DecoderJob(
            codec, lm, self._dataset, lengths, capacity=order.capacity, seed=order.seed, chance=order.chance
        )
        packs = job.packs(0)
        return job.model, job.batch(packs[0], 0), len(packs)

    def _rows(self) -> Sequence[Row]:
        return rows_of(self._dataset, self._order.by_heart)[0]

    def _planned(
        self,
        stage: Stage,
        model: nn.Module,
        whole: int,
        slim: int,
        packs: int,
        tokens_per_pack: float,
        flops_per_token: float,
        rate: float | None,
        trains: dict[str, int],
    ) -> StagePlan:
        schedule: Schedule = stage.schedule
        steps = schedule.total_steps(packs)
        tokens = round(steps * schedule.packs_per_step * tokens_per_pack)
        muons = {id(one) for row, many in table(model, schedule).items() if row.optimizer == "muon" for one in many}
        speed = rate or (self._usual / flops_per_token if self._usual else None)
        return StagePlan(
            stage.name, {name: count for name, count in trains.items() if count},
            *state_bytes([*model.parameters()], muons), whole, slim,
            round(packs * tokens_per_pack), packs, steps, tokens, flops_per_token,
            speed, tokens / speed if speed else None, rate is not None,
        )  # fmt: skip

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _rate(self, job: StudentJob, packs: Sequence[Any]) -> float:
        """Tokens a second."""
        job.model.to(self._device)
        batch = job.batch(packs[0], 0)
        given = replace(batch, tensors=send_to_device(batch.tensors, self._device))

        def step() -> Any:
            with torch.no_grad():
                prepared = job.prepare(given)
            return job.model(**prepared.tensors)

        return self._timed(step, batch.tokens)

    def _timed(self, step: Callable[[], dict[str, torch.Tensor]], tokens: int) -> float:
        best_s = math.inf
        for number in range(1 + TIMED):
            began = time.perf_counter()
            with self._arithmetic():
                sums = step()
            torch.autograd.backward([value for value in sums.values() if value.requires_grad])
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - began) if number else best_s
        return tokens / best_s


def _real(lm: SpeechLM) -> SpeechLM:
    """The same with weights."""
    made = build(lm.config, lm.codec, range(lm.speller.size), pretrained=False)
    made.speller, made.prompter, made.emotion_frames = lm.speller, lm.prompter, lm.emotion_frames
    return made


def _learning(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad)


# --- to read


def shown(plan: Plan) -> str:
    """As text."""
    lines = [
        f"{plan.flavour}: {sum(plan.parameters.values()):,} parameters, {plan.rows:,} rows to learn from, "
        f"{plan.dtype} on {plan.device}",
        "",
        *_aligned([["part", "parameters"], *([name, f"{count:,}"] for name, count in plan.parameters.items())]),
        "",
        *_aligned([["stage", "learns", "of them", "steps", "tokens", "GFLOP/token", "tokens/s", "time"],
                   *map(_work_row, plan.stages)]),
        "",
        *_aligned([["GiB", "weights", "gradients", "optimizer", "activations", "in all", "checkpointed"],
                   *map(_memory_row, plan.stages)]),
        "",
        *plan.notes,
    ]  # fmt: skip
    return "\n".join(lines).rstrip()


def _work_row(stage: StagePlan) -> list[str]:
    speed = "?" if stage.tokens_per_s is None else f"{'' if stage.measured else '~'}{stage.tokens_per_s:,.0f}"
    return [
        stage.name,
        " ".join(stage.trains),
        f"{sum(stage.trains.values()):,}",
        f"{stage.steps:,}",
        f"{stage.tokens:,}",
        f"{stage.flops_per_token / 1e9:.3g}",
        speed,
        "?" if stage.seconds is None else span(stage.seconds),
    ]


def _memory_row(stage: StagePlan) -> list[str]:
    lasting = [stage.weights, stage.gradients, stage.moments]
    sizes = [*lasting, stage.activations, sum(lasting) + stage.activations, sum(lasting) + stage.slim]
    return [stage.name, *(f"{size / GIB:.2f}" for size in sizes)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest; words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [
        all(not cell[:1].isdigit() and cell[:1] not in "~?" for cell in column)
        for column in zip(*rows[1:], strict=True)
    ]
    return [
        "  ".join(cell.ljust(width) if word else cell.rjust(width)
                  for cell, width, word in zip(row, widths, words, strict=True)).rstrip()
        for row in rows
    ]  # fmt: skip
