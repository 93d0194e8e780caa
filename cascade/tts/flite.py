"""Flite (Carnegie Mellon), where it is installed: clearer than eSpeak NG, in a process of its own for each sentence."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import soundfile

from cascade.audio import Waveform
from cascade.errors import EngineFailed, EngineUnavailable

VOICES = ("kal16", "awb", "rms", "slt")
TIMEOUT_S = 20.0


def flite_missing() -> str | None:
    """What to install, in one line, or None."""
    return None if shutil.which("flite") else "the program flite is not installed: apt install flite (or your system's package)"


def flite_say(text: str, voice: str) -> Waveform:
    """Speech at 16 kHz in Flite's own intonation. Raises EngineUnavailable, EngineFailed."""
    problem = flite_missing()
    if problem:
        raise EngineUnavailable(problem)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        command = ["flite", "-voice", voice, "-t", " ".join(text.split()), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
            data, rate = soundfile.read(path, dtype="float32")
        except (subprocess.SubprocessError, soundfile.SoundFileError) as error:
            raise EngineFailed(f"flite could not say {text[:40]!r}: {type(error).__name__}") from error
    return Waveform(data, rate)
