"""A strict stand-in for a student, with SpeechLM's face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from fakes import tone

from cascade.profiles import Engines
from e2e_model.errors import StudentError
from e2e_model.respond import Audio, End, Text, Think
from graphs.student_engine import Student, engines_of

RATE = 16_000


class FakeSpeechLM:
    """Strict: each answer is a list of events, exceptions to raise, and functions of `stop` that give events."""

    def __init__(self, *answers: Any, voice: bool = True, cut: bool = False) -> None:
        self.card: dict[str, Any] = {"flavour": "nano", "parameters": 7, "dataset": {"rows": 3}}
        self.config = SimpleNamespace(sample_rate=RATE)
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.spoken: list[tuple[str, str]] = []
        self.voice, self.cut = voice, cut

    def respond(self, samples: Any, sample_rate: int | None, **how: Any) -> Iterator[Any]:
        self.asked.append({"samples": samples, "sample_rate": sample_rate, **how})
        if not self.answers:
            raise AssertionError(f"asked {len(self.asked)} times, more than there are answers")
        for item in self.answers.pop(0):
            if isinstance(item, BaseException):
                raise item
            yield from item(how["stop"]) if callable(item) else [item]

    def speak(self, text: str, emotion: str, *, vector: bool, seed: int, stop: Callable[[], bool]) -> Iterator[Any]:
        self.spoken.append((text, emotion))
        if not self.voice:
            raise StudentError("its talker knows no such words")
        yield sound(0.2)
        yield sound(0.2)
        yield End("length" if self.cut else "end", text)


def sound(seconds: float = 0.48) -> Audio:
    return Audio(tone(seconds, rate=RATE).samples, RATE)


def think(heard: str | None = "i lost my job", **changes: Any) -> Think:
    probabilities = {
        "emotion": {"sad": 0.7, "neutral": 0.3},
        "age": {"adult": 0.9, "elder": 0.1},
        "events": {"cry": 0.8, "laugh": 0.1},
    }
    made: dict[str, Any] = {
        "text": "<heard> i lost my job<emotion>sad<strategy>validate<reply>comforting",
        "heard": heard,
        "emotion": "sad",
        "age": "adult",
        "events": ("cry",),
        "strategy": "validate",
        "reply_emotion": "comforting",
        "probabilities": probabilities,
    }
    return Think(**{**made, **changes})


def answer(*, said: str = "That is hard. What happened then?", first: Think | None = None) -> list[Any]:
    half = len(said) // 2
    return [first or think(), Text(said[:half]), sound(), Text(said[half:]), sound(), End("end", said, {"thinker": 9})]


def student(lm: FakeSpeechLM, **options: Any) -> Engines:
    return engines_of(Student(lm, **options))
