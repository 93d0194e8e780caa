"""eSpeak NG speech (from the pip package espeakng-loader), made emotional by the WORLD vocoder."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from pydantic import Field

from cascade.cancel import CancelScope
from cascade.engines import Speech, sayable
from cascade.needs import Need, package
from cascade.tts.emotions import NEUTRAL_DBFS, reply_shift
from cascade.tts.espeak_process import EspeakProcess
from cascade.tts.world import render
from cascade.turn import EngineInfo, Record, ReplyEmotion

WPM_RANGE = (80, 450)  # what the library accepts


class Options(Record):
    """`voice`: an eSpeak NG voice, with a +variant if wished. `pitch`, `pitch_range`: eSpeak's own scales, 50 = usual."""

    voice: str = "en-us+f5"
    rate_wpm: int = Field(default=150, ge=80, le=300)
    pitch: int = Field(default=50, ge=0, le=99)
    pitch_range: int = Field(default=55, ge=0, le=99)


class Espeak:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(
            name="espeak", version=version("espeakng-loader"), options=options.model_dump(exclude_defaults=True)
        )
        self._options = options
        self._process = EspeakProcess()

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """One sentence at 22,050 Hz. Pace is eSpeak's own, so that its word times stay true; the rest is WORLD's."""
        shift, options = reply_shift(emotion, intensity, rate), self._options
        wave, words = self._process.say(
            sayable(text),
            voice=options.voice,
            rate_wpm=round(min(max(options.rate_wpm * shift.rate, WPM_RANGE[0]), WPM_RANGE[1])),
            pitch=options.pitch,
            pitch_range=options.pitch_range,
            amplitude=100,
            cancel=cancel,
        )
        cancel.check()
        return Speech(render(wave.at_level(NEUTRAL_DBFS), replace(shift, rate=1.0), seed=seed), words)

    def close(self) -> None:
        self._process.close()


def needs(options: Options) -> list[Need]:
    return [package("espeakng_loader", "espeakng-loader", "pip install espeakng-loader")]


def load(options: Options) -> Espeak:
    return Espeak(options)
