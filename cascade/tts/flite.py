"""Flite (Carnegie Mellon), where it is installed: clearer than eSpeak NG, made emotional by the WORLD vocoder."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import soundfile

from cascade.asr.alignment import aligner
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech, sayable
from cascade.errors import EngineFailed, EngineUnavailable
from cascade.needs import Need, program
from cascade.tts.emotions import NEUTRAL_DBFS, reply_shift
from cascade.tts.world import render
from cascade.turn import EngineInfo, Record, ReplyEmotion

TIMEOUT_S = 20.0


class Options(Record):
    voice: Literal["kal16", "awb", "rms", "slt"] = "rms"  # the clearest: docs/lab-log.md, 11


class Flite:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(name="flite", version=_version(), options=options.model_dump(exclude_defaults=True))
        self._voice = options.voice

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """One sentence at 16 kHz. Flite reports no word times; they are found by alignment, where its words are known."""
        cancel.check()
        wave = flite_say(sayable(text), self._voice)
        cancel.check()
        shift = reply_shift(emotion, intensity, rate)
        words = tuple(
            word.model_copy(update={"start_s": word.start_s / shift.rate, "end_s": word.end_s / shift.rate})
            for word in aligner().words(wave, text)
        )
        return Speech(render(wave.at_level(NEUTRAL_DBFS), shift, seed=seed), words)


def flite_say(text: str, voice: str) -> Waveform:
    """Speech at 16 kHz in Flite's own intonation. Raises EngineUnavailable, EngineFailed."""
    for need in needs():
        if need.fix:
            raise EngineUnavailable(need.fix)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        command = ["flite", "-voice", voice, "-t", " ".join(text.split()), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
            data, rate = soundfile.read(path, dtype="float32")
        except (subprocess.SubprocessError, soundfile.SoundFileError) as error:
            raise EngineFailed(f"flite could not say {text[:40]!r}: {type(error).__name__}") from error
    return Waveform(data, rate)


def _version() -> str:
    shown = subprocess.run(
        ["flite", "--version"], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    ).stdout
    return next((line.split(":", 1)[1].strip() for line in shown.splitlines() if "version" in line), "unknown")


def needs(options: Options | None = None) -> list[Need]:
    return [program("flite", "the program flite is not installed: apt install flite (or your system's package)")]


def load(options: Options) -> Flite:
    return Flite(options)
