"""What one clip sounds like, in some fifty numbers: pitch, loudness, spectral balance, pace, pauses, vocal tract.

All of it is read below 4 kHz, so that sound sampled at 8 kHz gives the same numbers, and the steady noise of the room
is taken off first. No number depends on the gain of the microphone but `level_dbfs`. Measures follow the Geneva
minimalistic set (Eyben et al. 2016) where it has them; syllable nuclei follow de Jong & Wempe 2009.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyworld

from cascade.audio import SAMPLE_RATE, Waveform
from cascade.cancel import CancelScope

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

HOP_S = 0.01
WINDOW = 640  # samples: 40 ms at 16 kHz
FFT = 1024
CHUNK_FRAMES = 400  # 4 s: a piece of work short enough to stop between two
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 60.0, 600.0
MIN_PAUSE_S = 0.2
STEADY_DB, STEADY_ST = 1.0, 0.3  # what moves less than both in level and pitch is a tone
MIN_VOICED_FRAMES = 25  # a quarter of a second of voice, less says nothing reliable
SPEECH_ABOVE_NOISE_DB, SPEECH_BELOW_PEAK_DB = 6.0, 30.0
BANDS_HZ = (80, 300, 500, 800, 1200, 1700, 2300, 3000, 3900)
LPC_ORDER, LPC_RATE = 10, 8000  # two poles for each kHz, and two for the source
CACHE_CLIPS = 64


@dataclass(frozen=True)
class Measured:
    """One clip. `values` is empty, and `reason` says why, when there is too little voice to measure."""

    values: dict[str, float]
    reason: str = ""
    pitch_hz: float | None = None
    pitch_range_st: float | None = None
    rate_syllables_s: float | None = None
    level_dbfs: float | None = None
    pause_share: float | None = None
    pauses: int | None = None


@dataclass(frozen=True)
class Frames:
    """Every 10 ms: pitch_hz (T,), 0 = unvoiced; power (T, F) of the windowed sound, noise taken off; level_db (T,)."""

    pitch_hz: Array
    power: Array
    level_db: Array
    speech: Mask


# --- measured once per clip, whoever asks -------------------------------------------------------------------

_cache: OrderedDict[str, Measured] = OrderedDict()
_busy: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def measured(wave: Waveform, cancel: CancelScope | None = None) -> Measured:
    """The clip's numbers; threads that ask for the same sound at once share one computation. Raises Cancelled."""
    key = wave.sha256
    with _guard:
        lock = _busy.setdefault(key, threading.Lock())
    try:
        with lock:
            with _guard:
                found = _cache.get(key)
            if found is None:
                found = _measure(wave, cancel or CancelScope())
            with _guard:
                _cache[key] = found
                _cache.move_to_end(key)
                while len(_cache) > CACHE_CLIPS:
                    _cache.popitem(last=False)
            return found
    finally:
        with _guard:
            _busy.pop(key, None)


def _measure(wave: Waveform, cancel: CancelScope) -> Measured:
    x = wave.resampled(SAMPLE_RATE).samples.astype(np.float64)
    x -= x.mean() if len(x) else 0.0
    if len(x) < 2 * WINDOW or not np.any(x):
        return Measured({}, "the clip is empty or too short")
    frames = analyzed(x, cancel)
    if not frames.speech.any():
        return Measured({}, "no speech in the clip")
    spans = speech_spans(frames.speech)
    first, last = spans[0][0], spans[-1][1]
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(spans)]
    nuclei = syllable_nuclei(frames)
    spoken_s = sum(b - a for a, b in spans) * HOP_S
    voiced = frames.pitch_hz > 0
    general = {
        "level_dbfs": float(10 * np.log10(np.mean(10 ** (frames.level_db[frames.speech] / 10)) + 1e-12)),
        "rate_syllables_s": len(nuclei) / spoken_s,
        "pause_share": sum(gaps) / max(1, last - first),
        "pauses": len(gaps),
    }
    if voiced.sum() < MIN_VOICED_FRAMES:
        return Measured({}, "too little voice to tell", **general)  # type: ignore[arg-type]
    cancel.check()
    values = {**_pitch_features(frames), **_level_features(frames), **_spectral_features(frames)}
    if values["level_sd"] < STEADY_DB and values["pitch_range"] < STEADY_ST:
        return Measured({}, "a steady tone, not speech", **general)  # type: ignore[arg-type]
    cancel.check()
    values |= _time_features(frames, spans, nuclei) | _tract_features(x, frames)
    values["level_dbfs"] = general["level_dbfs"]
    semitones = 12 * np.log2(frames.pitch_hz[voiced])
    low, high = np.percentile(semitones, [10, 90])
    return Measured(
        {name: float(value) for name, value in values.items()},
        pitch_hz=float(np.median(frames.pitch_hz[voiced])),
        pitch_range_st=float(high - low),
        **general,  # type: ignore[arg-type]
    )


# --- frames -------------------------------------------------------------------------------------------------


def analyzed(x: Array, cancel: CancelScope) -> Frames:
    """x (N,) at 16 kHz → frames, in pieces so that a stopped turn stops."""
    hop = round(HOP_S * SAMPLE_RATE)
    total = max(1, (len(x) - WINDOW) // hop + 1)
    pieces, pitches = [], []
    window = np.hanning(WINDOW)
    for start in range(0, total, CHUNK_FRAMES):
        cancel.check()
        count = min(CHUNK_FRAMES, total - start)
        at = start * hop + np.arange(count)[:, None] * hop + np.arange(WINDOW)[None]
        pieces.append(np.abs(np.fft.rfft(x[at] * window, FFT)) ** 2)
        pitches.append(_pitch(x, start, count, hop))
    power = np.concatenate(pieces) / np.square(window).sum() / FFT * 2
    level_db = 10 * np.log10(power[:, :250].sum(axis=1) + 1e-12)
    quiet = np.argsort(level_db)[: max(3, total // 12)]
    noise = power[quiet].mean(axis=0)
    floor_db = max(
        float(np.mean(level_db[quiet])) + SPEECH_ABOVE_NOISE_DB,
        float(np.percentile(level_db, 97)) - SPEECH_BELOW_PEAK_DB,
    )
    loud = level_db > min(floor_db, float(np.percentile(level_db, 97)) - 3)
    clean = np.maximum(power - noise, 0.02 * power)
    pitch = _clean_pitch(np.where(loud, np.concatenate(pitches), 0.0))
    return Frames(pitch, clean, level_db, _closed(loud))


def _pitch(x: Array, start: int, count: int, hop: int) -> Array:
    """Pitch of frames start .. start + count, each at the middle of its window, with half a second of context."""
    before = min(start, 50)
    begin = (start - before) * hop + WINDOW // 2
    part = np.ascontiguousarray(x[max(0, begin) : (start + count + 50) * hop + WINDOW])
    rough, times = pyworld.dio(
        part, SAMPLE_RATE, f0_floor=PITCH_FLOOR_HZ, f0_ceil=PITCH_CEILING_HZ, frame_period=HOP_S * 1000
    )
    fine = pyworld.stonemask(part, rough, times, SAMPLE_RATE)[before : before + count]
    return np.asarray(np.pad(fine, (0, count - len(fine))))


def _clean_pitch(pitch_hz: Array) -> Array:
    """Without runs under 30 ms, and without what lies more than 15 semitones off the median: errors of the tracker."""
    out = pitch_hz.copy()
    voiced = out > 0
    if voiced.any():
        off = np.abs(12 * np.log2(np.where(voiced, out, 1.0) / np.median(out[voiced]))) > 15
        out[voiced & off] = 0
    for a, b in speech_spans(out > 0):
        if b - a < 3:
            out[a:b] = 0
    return out


def _closed(mask: Mask) -> Mask:
    """Holes shorter than a pause filled, and speech bursts under 50 ms dropped."""
    out = mask.copy()
    spans = [s for s in speech_spans(mask) if s[1] - s[0] >= 5]
    out[:] = False
    for index, (a, b) in enumerate(spans):
        out[a:b] = True
        if index + 1 < len(spans) and (spans[index + 1][0] - b) * HOP_S < MIN_PAUSE_S:
            out[b : spans[index + 1][0]] = True
    return out


def speech_spans(mask: Mask) -> list[tuple[int, int]]:
    """Runs of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def syllable_nuclei(frames: Frames) -> list[int]:
    """Frames of loudness peaks that are voiced, within 25 dB of the loudest, and 2 dB above the dip before them."""
    smooth = np.convolve(frames.level_db, np.hanning(9) / np.hanning(9).sum(), mode="same")
    threshold = np.percentile(smooth, 98) - 25
    peaks = [
        i for i in range(1, len(smooth) - 1) if smooth[i - 1] < smooth[i] >= smooth[i + 1] and smooth[i] > threshold
    ]
    kept: list[int] = []
    for i in peaks:
        if not frames.pitch_hz[max(0, i - 3) : i + 4].any():
            continue
        if kept and smooth[i] - smooth[kept[-1] : i].min() < 2:
            if smooth[i] > smooth[kept[-1]]:
                kept[-1] = i
            continue
        kept.append(i)
    return kept


# --- features -----------------------------------------------------------------------------------------------


def _pitch_features(frames: Frames) -> dict[str, float]:
    """Semitones (re 1 Hz for the absolute ones), and semitones a second for slopes."""
    voiced = frames.pitch_hz > 0
    where = np.nonzero(voiced)[0]
    st = 12 * np.log2(frames.pitch_hz[voiced])
    p5, p10, p25, p50, p75, p90, p95 = np.percentile(st, [5, 10, 25, 50, 75, 90, 95])
    slopes = [
        np.gradient(_smooth(12 * np.log2(frames.pitch_hz[a:b]))) / HOP_S for a, b in speech_spans(voiced) if b - a >= 5
    ]
    slope = np.clip(np.concatenate(slopes), -200, 200) if slopes else np.zeros(1)
    rises, falls = slope[slope > 5], slope[slope < -5]
    place = (where - where[0]) / max(1, where[-1] - where[0])
    level = frames.level_db[voiced]
    return {
        "pitch_st": p50,
        "pitch_low_st": p10,
        "pitch_high_st": p90,
        "pitch_range": p90 - p10,
        "pitch_wide": p95 - p5,
        "pitch_iqr": p75 - p25,
        "pitch_skew": (p90 + p10 - 2 * p50) / (p90 - p10 + 1.0),
        "pitch_motion": np.log(np.mean(np.abs(slope)) + 5),
        "pitch_rise": np.log(rises.mean() + 5 if len(rises) else 5),
        "pitch_fall": np.log(-falls.mean() + 5 if len(falls) else 5),
        "pitch_rise_share": float(np.mean(slope > 0)),
        "pitch_trend": float(np.polyfit(place, st, 1)[0]),
        "pitch_begin": float(np.median(st[place <= 0.2])) - p50,
        "pitch_end": float(np.median(st[place >= 0.85])) - p50,
        "pitch_level_r": float(np.corrcoef(st, level)[0, 1]) if st.std() > 0.05 and level.std() > 0.05 else 0.0,
        "jitter": float(np.log(np.mean([np.abs(np.diff(st, 2)).mean()]) + 0.02)) if len(st) > 3 else -4.0,
    }


def _smooth(curve: Array) -> Array:
    padded = np.pad(curve, 2, mode="edge")
    return np.convolve(padded, np.ones(5) / 5, mode="valid")


def _level_features(frames: Frames) -> dict[str, float]:
    """How loudness moves within the clip, dB and dB a second; nothing of the gain."""
    voiced = frames.pitch_hz > 0
    level = frames.level_db[voiced]
    p10, p50, p95 = np.percentile(level, [10, 50, 95])
    speech = frames.level_db[frames.speech]
    motion = np.gradient(np.convolve(frames.level_db, np.ones(3) / 3, mode="same"))[frames.speech] / HOP_S
    where = np.nonzero(voiced)[0]
    place = (where - where[0]) / max(1, where[-1] - where[0])
    return {
        "level_up": p95 - p50,
        "level_down": p50 - p10,
        "level_sd": float(speech.std()),
        "level_attack": float(np.log(np.percentile(motion, 95) + 20)),
        "level_decay": float(np.log(-np.percentile(motion, 5) + 20)),
        "level_trend": float(np.polyfit(place, level, 1)[0]),
        "level_end": float(np.median(level[place >= 0.85])) - p50,
    }


def _spectral_features(frames: Frames) -> dict[str, float]:
    """Balance in dB over voiced frames, between bands and between harmonics."""
    voiced = frames.pitch_hz > 0
    power, pitch = frames.power[voiced], frames.pitch_hz[voiced]
    hz = np.arange(power.shape[1]) * SAMPLE_RATE / FFT
    bands = np.stack([power[:, (hz >= a) & (hz < b)].sum(axis=1) for a, b in itertools.pairwise(BANDS_HZ)], axis=1)
    bands_db = 10 * np.log10(bands + 1e-12)
    all_db = 10 * np.log10(bands.sum(axis=1) + 1e-12)
    low, high = bands[:, :3].sum(axis=1), bands[:, 4:].sum(axis=1)  # 80–800, 1200–3900 Hz
    mid = bands[:, 3:].sum(axis=1)
    alpha = 10 * np.log10((mid + 1e-12) / (low + 1e-12))
    peaks = 10 * np.log10(
        power[:, hz < 2000].max(axis=1) / (power[:, (hz >= 2000) & (hz < 3900)].max(axis=1) + 1e-12) + 1e-12
    )
    loud = all_db >= np.percentile(all_db, 60)
    out = {f"band_{BANDS_HZ[i]}": float(np.mean(bands_db[:, i] - all_db)) for i in range(len(BANDS_HZ) - 1)}
    h1, h2 = _harmonic_db(power, pitch, 1), _harmonic_db(power, pitch, 2)
    out |= {
        "alpha": float(alpha.mean()),
        "alpha_loud": float(alpha[loud].mean()),
        "alpha_high": float(np.mean(10 * np.log10((high + 1e-12) / (low + 1e-12)))),
        "alpha_sd": float(alpha.std()),
        "alpha_total": float(10 * np.log10(mid.sum() / low.sum())),
        "alpha_level_slope": float(np.polyfit(all_db, alpha, 1)[0]) if all_db.std() > 0.5 else 0.0,
        "hammarberg": float(peaks.mean()),
        "hammarberg_loud": float(peaks[loud].mean()),
        "h1_h2": float(np.median(h1 - h2)),
        "h1_total": float(np.median(h1 - all_db)),
        "hnr": float(np.mean(_harmonicity_db(power, pitch))),
        "hnr_loud": float(np.mean(_harmonicity_db(power[loud], pitch[loud]))),
    }
    mel = np.log(bands / bands.sum(axis=1, keepdims=True) + 1e-4)
    out["flux"] = float(np.log(np.mean(np.abs(np.diff(mel, axis=0))) + 1e-3)) if len(mel) > 1 else -3.0
    return out


def _harmonic_db(power: Array, pitch: Array, number: int) -> Array:
    """Level of one harmonic: the strongest of three bins about it."""
    centre = np.clip(np.round(pitch * number * FFT / SAMPLE_RATE).astype(int), 1, power.shape[1] - 2)
    rows = np.arange(len(power))
    return np.asarray(10 * np.log10(np.max([power[rows, centre + d] for d in (-1, 0, 1)], axis=0) + 1e-12))


def _harmonicity_db(power: Array, pitch: Array) -> Array:
    """Harmonics-to-noise ratio below 4 kHz: autocorrelation at the period, corrected for the window (Boersma 1993)."""
    band = power.copy()
    band[:, 250:] = 0
    acf = np.fft.irfft(band, axis=1)
    shape = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(WINDOW), FFT)) ** 2)
    lag = np.round(SAMPLE_RATE / pitch).astype(int)
    rows = np.arange(len(power))
    r = np.max([acf[rows, lag + d] / shape[lag + d] for d in (-1, 0, 1)], axis=0) * shape[0] / (acf[:, 0] + 1e-12)
    r = np.clip(r, 0.05, 0.99)
    return np.asarray(10 * np.log10(r / (1 - r)))


def _time_features(frames: Frames, spans: list[tuple[int, int]], nuclei: list[int]) -> dict[str, float]:
    """Pace: logs of rates and lengths, shares."""
    first, last = spans[0][0], spans[-1][1]
    spoken = sum(b - a for a, b in spans)
    runs = np.array([b - a for a, b in speech_spans(frames.pitch_hz > 0)])
    steps = np.diff(nuclei) * HOP_S if len(nuclei) > 2 else np.array([0.2, 0.2])
    return {
        "rate": float(np.log(len(nuclei) / (spoken * HOP_S) + 0.5)),
        "rate_total": float(np.log(len(nuclei) / ((last - first) * HOP_S) + 0.5)),
        "step_sd": float(np.std(np.log(steps))),
        "pause_share": (last - first - spoken) / (last - first),
        "voiced_share": float(np.mean(frames.pitch_hz[first:last] > 0)),
        "voiced_run": float(np.log(runs.mean())),
        "voiced_run_sd": float(np.std(np.log(runs))),
    }


def _tract_features(x: Array, frames: Frames) -> dict[str, float]:
    """Medians of the log formants, and of the vocal tract's length they imply, by linear prediction at 8 kHz."""
    formants = _formants(x, frames)
    names = ("f1", "f2", "f3")
    if len(formants) < 5:
        formants = np.array([[500.0, 1500.0, 2500.0]])
    logs = np.log(formants)
    out = {name: float(np.median(logs[:, i])) for i, name in enumerate(names)}
    spacing = np.log(formants / np.array([0.5, 1.5, 2.5])[None]).mean(axis=1)  # log of the spacing of an even tube
    return out | {
        "tract": float(np.median(spacing)),
        "f1_sd": float(logs[:, 0].std()),
        "f2_sd": float(logs[:, 1].std()),
    }


def _formants(x: Array, frames: Frames) -> Array:
    """(K, 3) Hz from the loudest voiced frames, at most 150 of them."""
    voiced = np.nonzero(frames.pitch_hz > 0)[0]
    best = voiced[np.argsort(-frames.level_db[voiced], kind="stable")][: min(150, max(10, len(voiced) * 2 // 3))]
    power = frames.power[np.sort(best)][:, : FFT // 4 + 1]  # 0–4 kHz: its inverse is the autocorrelation at 8 kHz
    hz = np.arange(power.shape[1]) * SAMPLE_RATE / FFT
    acf = np.fft.irfft(power * (1 + (hz / 500) ** 2), axis=1)[:, : LPC_ORDER + 1]  # × : pre-emphasis
    acf[:, 0] *= 1.0001
    index = np.abs(np.arange(LPC_ORDER)[:, None] - np.arange(LPC_ORDER)[None])
    predictor = np.linalg.solve(acf[:, index], acf[:, 1:, None])[..., 0]  # (K, order)
    companion = np.zeros((len(predictor), LPC_ORDER, LPC_ORDER))
    companion[:, 0] = predictor
    companion[:, np.arange(1, LPC_ORDER), np.arange(LPC_ORDER - 1)] = 1
    roots = np.linalg.eigvals(companion)
    freq = np.angle(roots) * LPC_RATE / (2 * np.pi)
    width = -np.log(np.abs(roots) + 1e-9) * LPC_RATE / np.pi
    freq = np.where((freq > 180) & (freq < 3900) & (width < 600), freq, np.inf)
    first = np.sort(freq, axis=1)[:, :3]
    ok = np.isfinite(first).all(axis=1) & (first[:, 2] > 1700) & (first[:, 0] < 1200)
    return np.asarray(first[ok])
