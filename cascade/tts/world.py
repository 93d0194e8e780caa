"""Any voice, said another way: pitch, pace, loudness and voice quality changed with the WORLD vocoder.

Morise, Yokomori & Ozawa 2016, "WORLD: a vocoder-based high-quality speech synthesis system". A sound is taken apart
into pitch (dio + stonemask), spectral envelope (cheaptrick) and aperiodicity (d4c), each is changed, and they are put
together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyworld

from cascade.audio import Waveform

FRAME_MS = 5.0
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 60.0, 600.0
MIN_DURATION_S = 0.05  # WORLD needs a few frames
HEADROOM = 0.98  # highest peak of the result

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class VoiceShift:
    """What to change. Every default means no change."""

    pitch_st: float = 0.0  # semitones, of the whole contour
    range_factor: float = 1.0  # × each excursion from the median pitch, in semitones
    slope_st: float = 0.0  # semitones from beginning to end, the middle stays
    final_st: float = 0.0  # semitones reached at the very end, over the last 30 % (fall < 0 < rise)
    swing_st: float = 0.0  # lively ups and downs of about a syllable group (1 to 3 Hz), standard deviation in semitones
    tremor_st: float = 0.0  # amplitude of a regular tremor, semitones
    tremor_hz: float = 6.5  # its frequency
    jitter_st: float = 0.0  # irregularity from frame to frame, standard deviation in semitones
    rate: float = 1.0  # × speed; 1.25 lasts 0.8 times as long
    gain_db: float = 0.0  # level of the result against the input's
    dynamics: float = 1.0  # × each deviation from the mean level of voiced frames, in dB: accents stand out or vanish
    shimmer_db: float = 0.0  # irregularity of level, standard deviation in dB
    tilt_db: float = 0.0  # dB per octave above 500 Hz: > 0 brighter, as with effort; < 0 duller
    press_db: float = 0.0  # tense voice: dB by which what lies below ~400 Hz (the first harmonics) is weakened
    presence_db: float = 0.0  # a broad hump about 3 kHz: a voice that carries
    breath: float = 0.0  # 0..1 of the periodic part replaced by noise, more of it at high frequencies
    formant: float = 1.0  # × each formant's frequency: > 1 a shorter vocal tract
    opening: float = 1.0  # × the first formant only: > 1 a jaw more open, as in loud speech


@dataclass(frozen=True)
class Analysis:
    """A sound taken apart. pitch_hz (T,), 0 where unvoiced; envelope, aperiodicity (T, F) power and 0..1."""

    pitch_hz: Array
    envelope: Array
    aperiodicity: Array
    sample_rate: int
    level_dbfs: float
    samples: int


def analyzed(wave: Waveform) -> Analysis:
    """Take apart once, render many times. Raises ValueError on a sound too short to have a pitch."""
    if wave.duration_s < MIN_DURATION_S:
        raise ValueError(
            f"{wave.duration_s * 1000:.0f} ms is too short for a vocoder; give {MIN_DURATION_S * 1000:.0f} ms or more"
        )
    x, rate = wave.samples.astype(np.float64), wave.sample_rate
    rough, times = pyworld.dio(x, rate, f0_floor=PITCH_FLOOR_HZ, f0_ceil=PITCH_CEILING_HZ, frame_period=FRAME_MS)
    pitch = pyworld.stonemask(x, rough, times, rate)
    envelope = pyworld.cheaptrick(x, pitch, times, rate)
    return Analysis(pitch, envelope, pyworld.d4c(x, pitch, times, rate), rate, wave.level_dbfs, len(x))


def render(wave: Waveform, shift: VoiceShift, *, seed: int = 0) -> Waveform:
    """The same words, another way. Same arguments, same samples; the sample rate stays.

    A sound too short for the vocoder only gets the gain. The result never clips: it is made softer as a whole instead.
    """
    if wave.duration_s < MIN_DURATION_S or not np.isfinite(wave.level_dbfs):
        return _levelled(wave.samples.astype(np.float64), wave.sample_rate, wave.level_dbfs + shift.gain_db)
    return synthesized(analyzed(wave), shift, seed=seed)


def synthesized(parts: Analysis, shift: VoiceShift, *, seed: int = 0) -> Waveform:
    """Put an analysis together again, changed by `shift`; `seed` draws swing, jitter and shimmer."""
    rng = np.random.default_rng(seed)
    frames = len(parts.pitch_hz)
    picked = np.minimum(np.round(np.arange(max(2, round(frames / shift.rate))) * shift.rate).astype(int), frames - 1)
    pitch = _pitch(parts.pitch_hz[picked], shift, rng)
    envelope = _envelope(parts.envelope[picked], parts.sample_rate, pitch > 0, shift, rng)
    aperiodicity = _aperiodicity(parts.aperiodicity[picked], parts.sample_rate, shift)
    y = pyworld.synthesize(pitch, envelope, aperiodicity, parts.sample_rate, FRAME_MS)
    return _levelled(y[: round(parts.samples / shift.rate)], parts.sample_rate, parts.level_dbfs + shift.gain_db)


def _pitch(pitch_hz: Array, shift: VoiceShift, rng: np.random.Generator) -> Array:
    voiced = pitch_hz > 0
    if not voiced.any():
        return pitch_hz.copy()
    semitones = 12 * np.log2(pitch_hz[voiced])
    middle = float(np.median(semitones))
    where = np.nonzero(voiced)[0]
    time_s = where * FRAME_MS / 1000
    place = (where - where[0]) / max(1, where[-1] - where[0])  # 0..1 through the voiced stretch
    moved_st = middle + shift.pitch_st + (semitones - middle) * shift.range_factor
    moved_st += shift.slope_st * (place - 0.5) + shift.final_st * np.clip((place - 0.7) / 0.3, 0, 1)
    moved_st += shift.swing_st * _swing(time_s, rng)
    moved_st += shift.tremor_st * np.sin(2 * np.pi * shift.tremor_hz * time_s)
    moved_st += shift.jitter_st * rng.standard_normal(len(where))
    out = np.zeros_like(pitch_hz)
    out[voiced] = np.clip(2 ** (moved_st / 12), PITCH_FLOOR_HZ, PITCH_CEILING_HZ)
    return out


def _swing(time_s: Array, rng: np.random.Generator) -> Array:
    """A smooth random curve of about unit variance, moving at 1 to 3 Hz."""
    rates, phases = rng.uniform(1.0, 3.0, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * rates[:, None] * time_s[None] + phases[:, None])
    return np.asarray(waves.sum(axis=0) * np.sqrt(2 / 3))


def _envelope(envelope: Array, sample_rate: int, voiced: Mask, shift: VoiceShift, rng: np.random.Generator) -> Array:
    """Power spectrum (T, F) with formants moved, quality filtered and level accents stretched."""
    out = _warped(envelope, sample_rate, shift.formant, shift.opening)
    hz = np.linspace(0, sample_rate / 2, envelope.shape[1])
    octaves = np.clip(np.log2(np.maximum(hz, 1) / 500), 0, 4)
    gain_db = shift.tilt_db * octaves - shift.press_db / (1 + (hz / 400) ** 4)
    gain_db += shift.presence_db * np.exp(-0.5 * (np.log2(np.maximum(hz, 1) / 3000) / 0.4) ** 2)
    frame_db = np.zeros(len(out))
    if voiced.any() and shift.dynamics != 1:
        level = 10 * np.log10(out.sum(axis=1) + 1e-16)
        frame_db += np.clip((level - level[voiced].mean()) * (shift.dynamics - 1), -24, 12)
    frame_db += shift.shimmer_db * rng.standard_normal(len(out))
    return np.ascontiguousarray(out * 10 ** ((gain_db[None] + frame_db[:, None]) / 10))


def _aperiodicity(aperiodicity: Array, sample_rate: int, shift: VoiceShift) -> Array:
    out = _warped(aperiodicity, sample_rate, shift.formant, 1.0)
    khz = np.linspace(0, sample_rate / 2000, out.shape[1])
    noise = shift.breath * np.clip(0.3 + 0.35 * khz, 0, 1)[None]
    return np.ascontiguousarray(np.clip(out + (1 - out) * noise, 1e-6, 1 - 1e-6))


def _warped(spectra: Array, sample_rate: int, formant: float, opening: float) -> Array:
    """Move what lies at f to f × formant, below 900 Hz × opening too (fading out to 2 kHz), in rows of (T, F)."""
    if formant == 1 and opening == 1:
        return spectra.copy()
    bins = spectra.shape[1]
    hz = np.linspace(0, sample_rate / 2, bins)
    local = 1 + (opening - 1) * np.clip((2000 - hz) / 1100, 0, 1)
    source = np.clip(np.arange(bins) / (formant * local), 0, bins - 1)
    low = np.minimum(source.astype(int), bins - 2)
    part = source - low
    return np.asarray(spectra[:, low] * (1 - part) + spectra[:, low + 1] * part)


def _levelled(y: Array, sample_rate: int, level_dbfs: float) -> Waveform:
    rms = float(np.sqrt(np.mean(np.square(y)))) if len(y) else 0.0
    if rms > 0 and np.isfinite(level_dbfs):
        y = y * (10 ** (level_dbfs / 20) / rms)
    peak = float(np.abs(y).max()) if len(y) else 0.0
    if peak > HEADROOM:
        y = y * (HEADROOM / peak)
    return Waveform(np.ascontiguousarray(y, dtype=np.float32), sample_rate)
