"""The engines: what each stage must be able to do, and the one table of who can do it.

An engine is one module with `Options` (frozen, unknown key = error), `load(options)` and `missing()`, which says in one line
what has to be installed, or None. Modules are imported only when chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, ValidationError, ValidationInfo

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.errors import ConfigError, EngineUnavailable
from cascade.turn import (
    Baseline,
    Cues,
    EngineInfo,
    Exchange,
    Record,
    Reply,
    ReplyEmotion,
    Scores,
    Stage,
    Thought,
    Transcript,
    Turn,
    Word,
)


class Recognizer(Protocol):
    info: EngineInfo

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        """Words of one turn, any sample rate. Raises EngineFailed, Cancelled."""
        ...


class Analyzer(Protocol):
    info: EngineInfo

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """The parts of Cues that this engine serves, the others None. Raises EngineFailed, Cancelled."""
        ...


@dataclass(frozen=True)
class Prompt:
    """Everything a reasoner may know."""

    transcript: Transcript
    cues: Cues
    history: Sequence[Exchange] = ()
    attempt: int = 0  # 0: the first answer; higher: an earlier one was sent back
    complaints: Sequence[str] = ()  # why it was sent back
    seed: int = 0


class Reasoner(Protocol):
    info: EngineInfo

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        """First the Thought, then each sentence as soon as it is whole, last the Reply (the sentences joined by a space).

        Raises EngineFailed, Cancelled.
        """
        ...


@dataclass(frozen=True)
class Speech:
    """A spoken sentence, and when each of its words is heard."""

    wave: Waveform
    words: tuple[Word, ...] = ()


class Synthesizer(Protocol):
    info: EngineInfo

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """One sentence as speech in a reply emotion. Same arguments, same samples. Raises EngineFailed, Cancelled."""
        ...


class Judge(Protocol):
    info: EngineInfo

    def judge(
        self, turn: Turn, speech: Waveform, *, ears: Ears, history: Sequence[Exchange], cancel: CancelScope
    ) -> Scores:
        """Score the reply of a turn. Raises EngineFailed, Cancelled."""
        ...


@dataclass(frozen=True)
class Ears:
    """What a judge listens with: the profile's own recognizer and emotion analyzer."""

    recognizer: Recognizer
    emotion: Analyzer


@dataclass(frozen=True)
class EngineSpec:
    """One row of the table. `extra` is the pip extra that installs it ('' = the core); `licence` of engine and weights."""

    module: str
    about: str
    licence: str
    extra: str = ""


ENGINES: dict[Stage, dict[str, EngineSpec]] = {
    "asr": {
        "pocketsphinx": EngineSpec(
            "cascade.asr.pocketsphinx", "CMU PocketSphinx, its own US English model", "BSD-2-Clause"
        ),
    },
    "emotion": {
        "acoustic": EngineSpec("cascade.paralinguistics.acoustic", "Attune's small acoustic classifier", "Apache-2.0"),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "speaker": {
        "acoustic": EngineSpec("cascade.paralinguistics.acoustic", "Attune's small acoustic classifier", "Apache-2.0"),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "events": {
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "prosody": {
        "prosody": EngineSpec("cascade.paralinguistics.prosody", "pitch, rate, level, pauses", "Apache-2.0"),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "reasoning": {
        "counsellor": EngineSpec("cascade.reasoning.counsellor", "empathic strategies, no LLM", "Apache-2.0"),
    },
    "tts": {
        "espeak": EngineSpec(
            "cascade.tts.espeak", "eSpeak NG in a process of its own, prosody by WORLD", "GPL-3.0 (process), MIT"
        ),
        "flite": EngineSpec("cascade.tts.flite", "Flite where installed, prosody by WORLD", "MIT-like, MIT"),
    },
    "judging": {
        "listener": EngineSpec("cascade.judging.listener", "listen-back, emotion agreement, rubric", "Apache-2.0"),
    },
}


def spec(stage: Stage, name: str) -> EngineSpec:
    try:
        return ENGINES[stage][name]
    except KeyError:
        raise ConfigError(f"engine {name!r} for {stage} is not known; legal: {', '.join(ENGINES[stage])}") from None


def engine_module(stage: Stage, name: str) -> ModuleType:
    """Import an engine's module. Raises ConfigError (no such engine), EngineUnavailable (a package is missing)."""
    row = spec(stage, name)
    try:
        return importlib.import_module(row.module)
    except ImportError as error:
        install = f"pip install 'attune[{row.extra}]'" if row.extra else "pip install attune"
        raise EngineUnavailable(f"{stage}={name} needs the module {error.name!r}: {install}") from error


def _existing(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    whole = (folder / path.expanduser()).absolute()
    if not whole.is_file():
        raise ValueError(f"no such file: {whole}")
    return whole


ExistingFile = Annotated[Path, AfterValidator(_existing)]  # an option that names a file, relative to its profile


def parse_options(stage: Stage, name: str, options: dict[str, Any], folder: Path = Path()) -> Record:
    """The engine's own frozen options; files are sought from `folder`.

    Raises ConfigError naming the bad key or value and the legal ones.
    """
    model: type[Record] = engine_module(stage, name).Options
    try:
        return model.model_validate(options, context={"folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            legal = ", ".join(["engine", "deadline_s", *model.model_fields])
            raise ConfigError(f"[{stage}] has no option {key!r} for engine {name!r}; legal: {legal}") from None
        why = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"[{stage}] {key} = {str(first['input'])!r}: {why}") from None


def load_engine(stage: Stage, name: str, options: dict[str, Any]) -> Any:
    """Load one engine. Raises ConfigError, EngineUnavailable."""
    module = engine_module(stage, name)
    parsed = parse_options(stage, name, options)
    missing = module.missing()
    if missing:
        raise EngineUnavailable(f"{stage}={name}: {missing}")
    return module.load(parsed)
