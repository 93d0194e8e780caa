"""What a training run is asked for: where its parts come from, and that they fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from cascade.audio import Samples
from cascade.errors import ConfigError
from distill.run_folder import COMMAND, VERSIONS
from distill.training.assemble import check_ears, check_voice
from distill.training.data import Dataset
from distill.training.examples import Chance
from distill.training.stages import STAGES, TABLE, Stage, StageName, scaled
from e2e_model.build import resolved
from e2e_model.checkpoint import read_card
from e2e_model.config import Config


@dataclass(frozen=True)
class Order:
    """What is asked for. steps, epochs: by stage, in place of the table's; by_heart: train on the first so many dialogues
    and evaluate on the same; start: another student's folder to begin with; ears: one whose encoder and heads are taken;
    voice: one whose talker and codec are; freeze: parts that stay as they are in all stages; codec: a codec's folder, then
    stage 0 is left out, or alone lets its decoder learn on."""

    config: Config
    data: tuple[Path, ...]  # datasets
    out: Path
    stages: tuple[StageName, ...] = STAGES
    seed: int = 0
    resume: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    capacity: int = 4096
    packs_per_step: int | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    by_heart: int | None = None
    chance: Chance = field(default_factory=Chance)
    without: tuple[str, ...] = ()  # objectives that are switched off
    start: Path | None = None
    ears: Path | None = None
    voice: Path | None = None
    freeze: tuple[str, ...] = ()
    codec: Path | None = None
    rate: float = 1.0  # × the table's learning rates
    ema: float = 0.0  # of the weights, in all stages
    dropout: float | None = None  # of encoder and heads; None: the configuration's
    keep: Literal["best", "last"] = "best"  # weights of a stage: by held-out rows, or as it ended
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    emotion_frames: Callable[[Samples], Any] | None = None
    command: Mapping[str, Any] = field(default_factory=dict)  # the options that were given

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """What makes this run this run."""
        return {
            "config": self.config.plain(),
            "dataset": dataset.sha256,
            "stages": list(self.stages),
            "seed": self.seed,
            "dtype": self.dtype,
            "capacity": self.capacity,
            "packs_per_step": self.packs_per_step,
            "steps": dict(self.steps),
            "by_heart": self.by_heart,
            "chance": dataclasses.asdict(self.chance),
            "without": list(self.without),
            "start": str(self.start) if self.start else None,
            "ears": str(self.ears) if self.ears else None,
            "voice": str(self.voice) if self.voice else None,
            "freeze": list(self.freeze),
            "codec": str(self.codec) if self.codec else None,
            "rate": self.rate,
            "ema": self.ema,
            "dropout": self.dropout,
            "keep": self.keep,
            COMMAND: dict(self.command),
            VERSIONS: {name: version(name) for name in ("torch", "transformers", "accelerate")},
        }

    @property
    def decodes(self) -> bool:
        """Whether a codec that is given shall learn to decode better: its tokens stay, and students keep speaking in them."""
        return self.stages == ("codec",) and self.codec is not None

    @property
    def makes_codec(self) -> bool:
        """Whether one is trained here from the start."""
        return "codec" in self.stages and self.codec is None and self.config.codec.kind == "fsq"

    def stage(self, name: StageName) -> Stage:
        """A stage of the table, as this order wants it."""
        made = scaled(TABLE[name], pretrained=self.config.thinker.source is not None, dtype=self.dtype)
        schedule = dataclasses.replace(
            made.schedule,
            learning_rate=self.rate * made.schedule.learning_rate,
            ema=self.ema,
            parallel=self.parallel,
            compile=self.compile,
            gradient_checkpointing=self.gradient_checkpointing,
            packs_per_step=self.packs_per_step or made.schedule.packs_per_step,
        )
        if name in self.steps:
            schedule = dataclasses.replace(schedule, steps=self.steps[name], epochs=None)
        kept = {name: weight for name, weight in made.objectives.items() if name not in self.without}
        return dataclasses.replace(made, schedule=schedule, objectives=kept)


def found(order: Order) -> Order:
    """With the places of all that it names, and the configuration that follows of them. A student that is learnt on, or whose
    voice is taken, brings its codec. Raises ConfigError, StudentError: not there, nor of one kind."""
    start, ears, voice = (_inside(path, "student", "student.json") for path in (order.start, order.ears, order.voice))
    for name, path in (("ears", ears), ("voice", voice)):
        if path is not None and path == start:
            raise ConfigError(f"--{name}: {path} is where this begins, ears, voice and all; leave --{name} out")
    of = {path: Config.of(read_card(path)["config"], str(path)) for path in (start, ears, voice) if path is not None}
    config = resolved(order.config if start is None else of[start])
    if ears is not None:
        check_ears(config, of[ears], ears)
    if voice is not None:
        check_voice(config, of[voice], voice)
    codec = _inside(order.codec, "codec/weights", "codec.json")
    owner = voice or start
    if codec is None and owner is not None and config.codec.kind == "fsq":
        codec = owner / "codec"
    order = dataclasses.replace(order, config=config, start=start, ears=ears, voice=voice, codec=codec)
    if order.decodes and voice is not None and not config.talker.code_levels:
        raise ConfigError(f"--voice {voice}: its talker knows nothing of its codec's levels; leave it out")
    pretrained = config.thinker.source is not None
    for stage in (TABLE[name] for name in order.stages if name != "codec"):
        if not stage.parts(pretrained=pretrained, freeze=order.freeze):
            raise ConfigError(
                f"--freeze {' '.join(order.freeze)}: {stage.name} would learn nothing; freeze fewer parts"
            )
    return order


def _inside(path: Path | None, place: str, file: str) -> Path | None:
    """The folder itself, or what lies in a run's folder that was given in its place."""
    if path is not None and not (path / file).is_file() and (path / place / file).is_file():
        return path / place
    return path


def parsed_stages(text: str) -> tuple[StageName, ...]:
    """ "all", or names with commas, in the table's order. Raises ConfigError."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if asked == ["all"]:
        return STAGES
    wrong = next((name for name in asked if name not in STAGES), None)
    if wrong is not None or not asked:
        raise ConfigError(f"stage {wrong!r}: choose all, or some of {', '.join(STAGES)} with commas between")
    return tuple(name for name in STAGES if name in asked)


def parsed_steps(texts: tuple[str, ...]) -> dict[str, int]:
    """("speak=500", …) as a table. Raises ConfigError."""
    steps: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if name not in STAGES or not count.isdigit() or not int(count):
            raise ConfigError(f"--steps {text}: give stage=N with a stage of {', '.join(STAGES)} and N from 1 on")
        steps[name] = int(count)
    return steps
