"""The engines: what each stage must be able to do, and the one table of who can do it.

An engine is one module with `Options` (frozen, unknown key = error), `needs(options)`, which says what it rests on and what of
that is missing, and `load(options)`. Modules are imported only when chosen, and heavy packages only by `load`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import AfterValidator, ValidationError, ValidationInfo

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.errors import ConfigError, EngineUnavailable, InputError, one_line
from cascade.needs import Need, by_weight, extra
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
    Token,
    Transcript,
    Turn,
    Word,
)
from cascade.values import rule


class Recognizer(Protocol):
    info: EngineInfo

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        """Words of one turn, any sample rate. Raises InputError (`Waveform.checked`), EngineFailed, Cancelled."""
        ...


class Analyzer(Protocol):
    info: EngineInfo

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """The parts of Cues that this engine serves, the others None. Raises InputError, EngineFailed, Cancelled."""
        ...


@dataclass(frozen=True, eq=False)
class EmotionFeatures:
    """Continuous features of emotional speech. utterance (D,), frames (T, D) float32; frame_rate_hz: frames a second."""

    utterance: np.ndarray[tuple[int], np.dtype[np.float32]]
    frames: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    frame_rate_hz: float


class EmotionEncoder(Analyzer, Protocol):
    """An emotion analyzer that also gives the vector its answer rests on: what a student learns to predict."""

    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        """Features of one utterance, any sample rate. Raises EngineFailed, Cancelled."""
        ...


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


class LanguageModel(Protocol):
    """A chat model as reasoners and judges use it. Where it comes from is its engine's matter."""

    info: EngineInfo

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        top_logprobs: int,
        cancel: CancelScope,
    ) -> Iterator[Token]:
        """The assistant's answer as it is written. temperature 0: the most probable token always. `top_logprobs`: how many
        alternatives to keep with each token, where the model tells them. Raises EngineFailed, EngineUnavailable, Cancelled.
        """
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


def sayable(text: str) -> str:
    """The text on one line. Raises InputError unless there is something in it to be said."""
    line = " ".join(text.split())
    if not any(char.isalnum() for char in line):
        raise InputError(f"nothing to say in {text!r}; give a sentence with a letter or a digit in it")
    return line


class Synthesizer(Protocol):
    info: EngineInfo

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """One sentence as speech in a reply emotion. Same arguments, same samples.

        Raises InputError (`sayable`), EngineFailed, Cancelled.
        """
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
    """What a judge listens with: the profile's own recognizer (None: nobody listens for words this time) and emotion analyzer,
    and its reasoner's language model if any.
    """

    recognizer: Recognizer | None
    emotion: Analyzer
    language_model: LanguageModel | None = None


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
        "faster_whisper": EngineSpec("cascade.asr.faster_whisper", "Whisper by CTranslate2", "MIT, MIT", "whisper"),
    },
    "emotion": {
        "acoustic": EngineSpec("cascade.paralinguistics.acoustic", "Attune's small acoustic classifier", "Apache-2.0"),
        "emotion2vec": EngineSpec(
            "cascade.paralinguistics.emotion2vec", "emotion2vec+ by FunASR", "MIT, model licence", "emotion2vec"
        ),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "speaker": {
        "acoustic": EngineSpec("cascade.paralinguistics.acoustic", "Attune's small acoustic classifier", "Apache-2.0"),
        "wav2vec2": EngineSpec(
            "cascade.paralinguistics.wav2vec2",
            "age and gender by a wav2vec2 head",
            "Apache-2.0, CC-BY-NC-SA",
            "taggers",
        ),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "events": {
        "audio_tagger": EngineSpec(
            "cascade.paralinguistics.audio_tagger", "AudioSet tagger, sliding window", "Apache-2.0, BSD-3", "taggers"
        ),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "prosody": {
        "prosody": EngineSpec("cascade.paralinguistics.prosody", "pitch, rate, level, pauses", "Apache-2.0"),
        "unknown": EngineSpec("cascade.paralinguistics.unknown", "says nothing", "Apache-2.0"),
    },
    "reasoning": {
        "counsellor": EngineSpec("cascade.reasoning.counsellor", "empathic strategies, no LLM", "Apache-2.0"),
        "transformers": EngineSpec(
            "cascade.reasoning.transformers", "any causal language model of the hub", "Apache-2.0, model's own", "llm"
        ),
        "openai": EngineSpec(
            "cascade.reasoning.openai", "any OpenAI-compatible endpoint", "Apache-2.0, server's own", "openai"
        ),
    },
    "tts": {
        "espeak": EngineSpec(
            "cascade.tts.espeak", "eSpeak NG in a process of its own, prosody by WORLD", "GPL-3.0 (process), MIT"
        ),
        "flite": EngineSpec("cascade.tts.flite", "Flite where installed, prosody by WORLD", "MIT-like, MIT"),
        "f5": EngineSpec("cascade.tts.f5", "F5-TTS, a reference clip per emotion", "MIT, CC-BY-NC-4.0", "f5"),
    },
    "judging": {
        "listener": EngineSpec("cascade.judging.listener", "listen-back, emotion agreement, rubric", "Apache-2.0"),
        "panel": EngineSpec(
            "cascade.judging.panel", "listener, DNSMOS, a language model's opinion", "MIT, MIT", "judge"
        ),
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
        raise EngineUnavailable(f"{stage}={name} needs the module {error.name!r}: {_install(row)}") from error


def _install(row: EngineSpec) -> str:
    return extra(row.extra) if row.extra else "install Attune's packages again (pip install -e . in its folder)"


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
        why = rule(first)
        if not key:
            raise ConfigError(f"[{stage}]: {why}") from None
        raise ConfigError(f"[{stage}] {key} = {str(first['input'])!r}: {why}") from None


def needs(stage: Stage, name: str, options: Record) -> Sequence[Need]:
    """What an engine rests on, with the line that mends each gap."""
    found: Sequence[Need] = engine_module(stage, name).needs(options)
    return found


def load_engine(stage: Stage, name: str, options: dict[str, Any]) -> Any:
    """Load one engine. Raises ConfigError, EngineUnavailable."""
    parsed = parse_options(stage, name, options)
    gaps = sorted((need for need in needs(stage, name, parsed) if need.fix), key=by_weight)
    if gaps:
        more = f" ({len(gaps) - 1} more: attune doctor, with the same options)" if len(gaps) > 1 else ""
        raise EngineUnavailable(f"{stage}={name} lacks {gaps[0].name}: {gaps[0].fix}{more}")
    try:
        return engine_module(stage, name).load(parsed)
    except ImportError as error:
        raise EngineUnavailable(
            f"{stage}={name}: a package is there but cannot be imported ({one_line(error)}): {_install(spec(stage, name))}"
        ) from error
