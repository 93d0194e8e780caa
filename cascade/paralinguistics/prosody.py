"""The analyzer of how the voice moved: pitch, pace, level, pauses. Nothing is learnt here, all of it is measured."""

from __future__ import annotations

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.needs import Need
from cascade.paralinguistics.features import measured
from cascade.turn import Baseline, Cues, EngineInfo, Prosody, Record


class Options(Record):
    pass


class ProsodyAnalyzer:
    def __init__(self) -> None:
        self.info = EngineInfo(name="prosody", version="1")

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """The `prosody` part; what could not be measured is None. Raises Cancelled."""
        cancel.check()
        found = measured(speech.checked(), cancel)
        return Cues(
            prosody=Prosody(
                pitch_hz=found.pitch_hz,
                pitch_range_st=found.pitch_range_st,
                rate_syllables_s=found.rate_syllables_s,
                level_dbfs=found.level_dbfs,
                pause_share=found.pause_share,
                pauses=found.pauses,
                engine="prosody",
            )
        )


def needs(options: Options) -> list[Need]:
    return []


def load(options: Options) -> ProsodyAnalyzer:
    return ProsodyAnalyzer()
