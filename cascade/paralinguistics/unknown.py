"""The analyzer that says plainly that it cannot tell: for a stage that has no honest engine in a profile."""

from __future__ import annotations

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.needs import Need
from cascade.turn import AgeCue, Baseline, Cues, EmotionCue, EngineInfo, EventsCue, GenderCue, Prosody, Record

REASON = "no engine for this in the profile"


class Options(Record):
    pass


class Unknown:
    def __init__(self) -> None:
        self.info = EngineInfo(name="unknown", version="1")

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        speech.checked()
        cancel.check()
        blank = {"engine": "unknown", "reason": REASON}
        return Cues(
            emotion=EmotionCue(**blank),
            age=AgeCue(**blank),
            gender=GenderCue(**blank),
            events=EventsCue(**blank),
            prosody=Prosody(engine="unknown"),
        )


def needs(options: Options) -> list[Need]:
    return []


def load(options: Options) -> Unknown:
    return Unknown()
