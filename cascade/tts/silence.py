"""Where a clip of one voice sounds, by its level alone: good enough for clean speech, and it needs no model."""

from __future__ import annotations

import numpy as np

from cascade.audio import SILENCE_DBFS, Waveform

FRAME_S = 0.01
BELOW_LOUDEST_DB = 35.0  # soft consonants lie within 30 dB of a speaker's loudest vowel, the room's noise below

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


def sounding(wave: Waveform) -> Flags:
    """Whether each frame of 10 ms, the last one shorter, is within 35 dB of the loudest; none of digital silence is."""
    size = round(FRAME_S * wave.sample_rate)
    padded = np.pad(wave.samples.astype(np.float64), (0, -len(wave.samples) % size))
    power = np.square(padded.reshape(-1, size)).mean(axis=1)
    level_db = 10 * np.log10(power + 1e-20)
    floor_db = max(float(level_db.max(initial=-200.0)) - BELOW_LOUDEST_DB, SILENCE_DBFS)
    return np.asarray(level_db > floor_db)


def trimmed(wave: Waveform, margin_s: float) -> Waveform:
    """Without the silence at both ends, but for at most `margin_s` of it. Empty when nothing sounds."""
    frames = np.nonzero(sounding(wave))[0]
    if not len(frames):
        return Waveform(wave.samples[:0], wave.sample_rate)
    size, margin = round(FRAME_S * wave.sample_rate), round(margin_s * wave.sample_rate)
    start, end = int(frames[0]) * size - margin, (int(frames[-1]) + 1) * size + margin
    return Waveform(wave.samples[max(0, start) : end].copy(), wave.sample_rate)


def pauses_s(wave: Waveform) -> tuple[float, float, float]:
    """Seconds of silence before the first sound, of the longest one within, and after the last sound."""
    flags = sounding(wave)
    frames = np.nonzero(flags)[0]
    if not len(frames):
        return wave.duration_s, 0.0, 0.0
    gaps = np.diff(frames) - 1
    inner = float(gaps.max(initial=0)) * FRAME_S
    return float(frames[0]) * FRAME_S, inner, float(len(flags) - 1 - frames[-1]) * FRAME_S
