"""Strict stand-ins for engines: they do what they are told, and run out of answers with an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Prompt, Speech
from cascade.profiles import Engines, Profile, StageConfig
from cascade.turn import (
    STAGES,
    AgeCue,
    Baseline,
    Cues,
    EmotionCue,
    EngineInfo,
    EventsCue,
    GenderCue,
    Prosody,
    Reply,
    Scores,
    Stage,
    Thought,
    Transcript,
    Word,
)

INFO = EngineInfo(name="fake", version="1")


def tone(seconds: float = 1.0, hz: float = 220.0, rate: int = 16_000, level: float = 0.1) -> Waveform:
    t = np.arange(round(seconds * rate)) / rate
    return Waveform((level * np.sin(2 * np.pi * hz * t)).astype(np.float32), rate)


class Scripted:
    """Answers from a list, each an object, an exception to raise, or a function to call with the scope."""

    info = INFO

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def next(self, asked: Any, cancel: CancelScope) -> Any:
        self.asked.append(asked)
        if not self.answers:
            raise AssertionError(f"{type(self).__name__} was asked {len(self.asked)} times, more than it has answers")
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer(cancel) if callable(answer) else answer


class FakeRecognizer(Scripted):
    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        return self.next(speech, cancel)


class FakeAnalyzer(Scripted):
    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        return self.next((speech, baseline), cancel)


class FakeReasoner(Scripted):
    """Each answer: a list of items to yield; functions in it are called, exceptions raised."""

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Any]:
        for item in self.next(prompt, cancel):
            if isinstance(item, BaseException):
                raise item
            yield item(cancel) if callable(item) else item


class FakeSynthesizer(Scripted):
    """Without answers of its own it speaks a tone of 0.1 s a word, with word times."""

    def speak(
        self, text: str, *, emotion: str, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        if self.answers:
            return self.next((text, emotion), cancel)
        self.asked.append((text, emotion))
        words = text.split()
        times = tuple(Word(text=w, start_s=i * 0.1, end_s=(i + 1) * 0.1) for i, w in enumerate(words))
        return Speech(tone(0.1 * len(words)), times)


class FakeJudge(Scripted):
    def judge(self, turn: Any, speech: Waveform, *, ears: Any, history: Sequence[Any], cancel: CancelScope) -> Scores:
        return self.next((turn, speech), cancel)


def heard(text: str) -> Transcript:
    return Transcript(text=text, language="en", confidence=0.9, engine="fake")


def sad(probability: float = 0.8) -> Cues:
    return Cues(emotion=EmotionCue(probabilities={"sad": probability, "neutral": 1 - probability}, engine="fake"))


def thinking(**changes: Any) -> Thought:
    base = {"heard": "x", "strategy": "reflect", "reply_emotion": "comforting", "reasoning": "Because."}
    return Thought(**{**base, **changes})


def answer(*sentences: str, emotion: str = "comforting") -> list[Any]:
    """What a reasoner yields for a reply of these sentences."""
    return [thinking(reply_emotion=emotion), *sentences, Reply(text=" ".join(sentences), emotion=emotion)]


def scores(*complaints: str) -> Scores:
    return Scores(reply_wer=0.1, empathy=0.8, complaints=complaints, engine="fake")


def hang(seconds: float = 30.0) -> Callable[[CancelScope], Any]:
    """An engine that neither answers nor looks at its scope."""

    def work(_: CancelScope) -> Any:
        threading.Event().wait(seconds)

    return work


def lingering(seconds: float) -> None:
    """Leaves a thread behind for which its process waits before it ends."""
    threading.Thread(target=time.sleep, args=(seconds,)).start()


def slow(seconds: float, value: Any) -> Callable[[CancelScope], Any]:
    """An engine that takes a while and looks at its scope."""

    def work(scope: CancelScope) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            scope.check()
            time.sleep(0.005)
        return value

    return work


def fake_engines(turns: int = 1, deadline_s: float = 5.0, **engines: Any) -> Engines:
    """A whole profile of fakes, good for `turns` turns; name a stage to replace its engine."""
    unknown = {"engine": "fake"}
    loaded: dict[Stage, Any] = {
        "asr": FakeRecognizer(*[heard("i lost my job")] * turns),
        "emotion": FakeAnalyzer(*[sad()] * turns),
        "speaker": FakeAnalyzer(*[Cues(age=AgeCue(**unknown), gender=GenderCue(**unknown))] * turns),
        "events": FakeAnalyzer(*[Cues(events=EventsCue(**unknown))] * turns),
        "prosody": FakeAnalyzer(*[Cues(prosody=Prosody(pitch_hz=120.0, engine="fake"))] * turns),
        "reasoning": FakeReasoner(*[answer("That is hard.", "What happened then?") for _ in range(turns)]),
        "tts": FakeSynthesizer(),
        "judging": FakeJudge(*[scores()] * turns),
    }
    loaded.update(engines)
    return Engines(Profile("fake", {stage: StageConfig("fake", deadline_s) for stage in STAGES}), loaded)
