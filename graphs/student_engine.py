"""The student as an engine: e2e_model's events as the cascade's records, and what it says of itself.

One model does the work of six stages in one stream, so it stands under each of their names. A label that is not of the
cascade's sets is unknown; what a stream may not be (a reply before what was heard, no end) is a failure.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np

from cascade.audio import SAMPLE_RATE, Samples, Waveform, joined
from cascade.cancel import CancelScope
from cascade.engines import Speech, sayable
from cascade.errors import EngineFailed, EngineUnavailable
from cascade.profiles import Engines, Profile, StageConfig
from cascade.turn import (
    AGES,
    EMOTIONS,
    EVENT_KINDS,
    GENDERS,
    REPLY_EMOTIONS,
    STRATEGIES,
    AgeCue,
    Cues,
    EmotionCue,
    EngineInfo,
    EventKind,
    EventsCue,
    GenderCue,
    ReplyEmotion,
    Stage,
    Thought,
    Transcript,
    VocalEvent,
)
from e2e_model.errors import StudentError
from e2e_model.respond import Audio, End, Event, Said, Text, Think
from graphs.resources import own_peak_memory_mb

ENGINE = "student"
DOES: tuple[Stage, ...] = ("asr", "emotion", "speaker", "events", "reasoning", "tts")
ThinkForm = Literal["tag", "language", "none"]
EmotionFrames = np.ndarray[tuple[int, int], np.dtype[np.float32]]
T = TypeVar("T")
Cue = TypeVar("Cue", EmotionCue, AgeCue, GenderCue)


class Model(Protocol):
    """What is used of e2e_model's SpeechLM."""

    card: dict[str, Any]
    config: Any  # its sample_rate is the one that speech must have, in Hz

    def respond(
        self,
        samples: np.ndarray[Any, Any] | None,
        sample_rate: int,
        *,
        text: str | None,
        history: Sequence[Said],
        task: str,
        think: ThinkForm,
        vector: bool,
        seed: int,
        stop: Callable[[], bool],
    ) -> Iterator[Event]: ...

    def speak(
        self, text: str, emotion: str, *, vector: bool, seed: int, stop: Callable[[], bool]
    ) -> Iterator[Event]: ...


@dataclass(frozen=True)
class Impression:
    """What the student took in and made of it. thought: None where it decided nothing before it wrote."""

    transcript: Transcript
    cues: Cues
    thought: Thought | None


@dataclass(frozen=True)
class Ended:
    """The stream is over. whole: the reply ended by itself."""

    text: str
    whole: bool


Piece = Impression | str | Waveform | Ended  # of the reply: its text, its sound


class Student:
    """Answers in one stream; speaks what others wrote (a Synthesizer). `device`: where it runs, as torch calls it;
    `parameters`: how many it has, where that is known.
    """

    def __init__(
        self,
        model: Model,
        *,
        think: ThinkForm = "tag",
        vector: bool = True,
        device: str = "cpu",
        parameters: int | None = None,
    ) -> None:
        self._model, self._think, self._vector, self._device = model, think, vector, device
        self._counted = {"parameters": parameters} if parameters is not None else {}

    @property
    def info(self) -> EngineInfo:
        """With the most memory that it has taken until now."""
        told = {key: value for key, value in self._model.card.items() if isinstance(value, str | int | float)}
        options = {
            **told,
            **self._counted,
            "think": self._think,
            "vector": self._vector,
            "device": self._device,
            "peak_memory_mb": peak_memory_mb(self._device),
        }
        return EngineInfo(name=ENGINE, version=version("attune"), options=options)

    def respond(
        self, said: str | Waveform, *, history: Sequence[Said], seed: int, cancel: CancelScope
    ) -> Iterator[Piece]:
        """Answer words or speech: an Impression, then pieces of text and of sound as they are made, then Ended.

        Raises EngineFailed.
        """
        typed = said if isinstance(said, str) else None
        rate: int = self._model.config.sample_rate
        speech = said.resampled(rate) if isinstance(said, Waveform) else None

        def answer() -> Iterator[Event]:
            return self._model.respond(
                speech.samples if speech else None,
                rate,
                text=typed,
                history=history,
                task="speech→speech" if speech else "text→speech",
                think=self._think,
                vector=self._vector,
                seed=seed,
                stop=lambda: cancel.cancelled,
            )

        return _translated(in_one_thread(answer), typed, speech.duration_s if speech else 0.0)

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """The student's voice knows an emotion, no intensity and no rate. Raises InputError, EngineFailed, Cancelled."""
        with _as_engine_failed():
            events = list(
                self._model.speak(sayable(text), emotion, vector=self._vector, seed=seed, stop=lambda: cancel.cancelled)
            )
        cancel.check()
        parts = [_wave(event) for event in events if isinstance(event, Audio)]
        whole = any(isinstance(event, End) and event.reason == "end" for event in events)
        if not parts or not whole:
            raise EngineFailed(f"{ENGINE}: could not say {text!r} to its end")
        return Speech(joined(parts))


def load_student(folder: Path, *, think: ThinkForm, vector: bool) -> Engines:
    """The student in a folder, as the engines of a session. Raises EngineUnavailable: no student there, a changed one."""
    from e2e_model import SpeechLM

    try:
        model = SpeechLM.from_pretrained(folder, device="auto")
    except StudentError as error:
        raise EngineUnavailable(str(error)) from error
    if source := model.config.emotion_encoder.source:
        model.emotion_frames = emotion_frames(source)
    device = next(model.parameters()).device.type
    count = sum(one.numel() for part in (model, model.codec) for one in part.parameters())
    return engines_of(Student(model, think=think, vector=vector, device=device, parameters=count))


def emotion_frames(source: str) -> Callable[[Samples], EmotionFrames]:
    """emotion2vec's frames [S, D] of speech at 16 kHz, for a student that hears through it. source: its folder, or its name.

    Raises EngineUnavailable. What is too short or silent has none: EngineFailed.
    """
    from cascade.paralinguistics import emotion2vec

    engine = emotion2vec.load(emotion2vec.Options(model=source))

    def frames(samples: Samples) -> EmotionFrames:
        return engine.embed(Waveform(samples, SAMPLE_RATE), cancel=CancelScope()).frames

    return frames


def engines_of(student: Student) -> Engines:
    stages: dict[Stage, StageConfig] = dict.fromkeys(DOES, StageConfig(ENGINE))
    return Engines(Profile(ENGINE, stages), dict.fromkeys(DOES, student))


def peak_memory_mb(device: str) -> int:
    """The most the process has held (resident); on CUDA, the most that torch has held there."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e6)
    return own_peak_memory_mb()


def in_one_thread(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    """A generator that runs ahead in one thread, from whichever thread its items are fetched.

    What torch keeps by thread (inference mode, worker pools, CUDA graphs) so stays where it was set up.
    """
    items: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def body() -> None:
        try:
            for item in make():
                items.put((item, None))
            items.put((None, StopIteration()))
        except BaseException as error:
            items.put((None, error))

    threading.Thread(target=body, name=f"attune-{ENGINE}-model", daemon=True).start()
    while True:
        item, error = items.get()
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield cast(T, item)


def _translated(events: Iterator[Event], typed: str | None, duration_s: float) -> Iterator[Piece]:
    told = False
    with _as_engine_failed():
        for event in events:
            match event:
                case Think():
                    told = True
                    yield impression(event, typed, duration_s)
                case End():
                    yield Ended(event.text.strip(), whole=event.reason == "end")
                    return
                case Text() | Audio() if not told and typed is None:
                    raise EngineFailed(f"{ENGINE}: answered before it told what it heard")
                case Text():
                    yield event.text
                case Audio() if len(event.samples):
                    yield _wave(event)
    raise EngineFailed(f"{ENGINE}: its answer broke off without an end")


@contextmanager
def _as_engine_failed() -> Iterator[None]:
    """Around the student's own work: its errors are an engine's."""
    try:
        yield
    except StudentError as error:
        raise EngineFailed(f"{ENGINE}: {error}") from error


def _wave(piece: Audio) -> Waveform:
    return Waveform(np.ascontiguousarray(piece.samples, dtype=np.float32), piece.sample_rate)


def impression(think: Think, typed: str | None, duration_s: float) -> Impression:
    """Raises EngineFailed where the words of speech are not told: they must be read before they are answered."""
    words = typed if typed is not None else think.heard
    if words is None:
        raise EngineFailed(f"{ENGINE}: did not tell the words it heard, so nobody can look for words of crisis in them")
    engine = "typed" if typed is not None else ENGINE
    transcript = Transcript(text=words, confidence=1.0 if typed is not None else think.sure, engine=engine)
    return Impression(transcript, Cues() if typed is not None else cues_of(think, duration_s), _thought(think, words))


def cues_of(think: Think, duration_s: float) -> Cues:
    """The heads' distributions; a cue without one is None. Vocal events are told without times: they span the turn."""
    given = think.probabilities
    return Cues(
        emotion=_cue(EmotionCue, given.get("emotion")),
        age=_cue(AgeCue, given.get("age")),
        gender=_cue(GenderCue, given.get("gender")),
        events=_events(think.events, given.get("events", {}), duration_s),
    )


def _cue(kind: type[Cue], probabilities: Mapping[str, float] | None) -> Cue | None:
    """Labels of other sets, and "unknown", go to the share that cannot tell."""
    if not probabilities:
        return None
    legal = {label: float(p) for label, p in probabilities.items() if label in kind.labels}
    return kind(probabilities=legal, unknown=min(1.0, max(0.0, 1 - sum(legal.values()))), engine=ENGINE)


def _events(told: tuple[str, ...] | None, shares: Mapping[str, float], duration_s: float) -> EventsCue | None:
    if told is None or any(kind not in EVENT_KINDS or kind not in shares for kind in told):
        return None
    events = tuple(
        VocalEvent(kind=cast(EventKind, kind), start_s=0.0, end_s=duration_s, confidence=shares[kind]) for kind in told
    )
    return EventsCue(events=events, engine=ENGINE, reason="heard in the turn, nobody tells when")


def _thought(think: Think, words: str) -> Thought | None:
    """None without a way to answer: there is no unknown strategy."""
    if think.strategy not in STRATEGIES or think.reply_emotion not in REPLY_EMOTIONS:
        return None
    known = think.events is not None and all(kind in EVENT_KINDS for kind in think.events)
    return Thought.model_validate(
        {
            "heard": words,
            "emotion": think.emotion if think.emotion in EMOTIONS else None,
            "age": think.age if think.age in AGES else None,
            "gender": think.gender if think.gender in GENDERS else None,
            "events": think.events if known else None,
            "strategy": think.strategy,
            "reply_emotion": think.reply_emotion,
            "reasoning": think.text,
        }
    )
