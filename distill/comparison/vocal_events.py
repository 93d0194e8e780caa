"""Simulated vocal events: a laugh, cough, cry, scream, sigh, sneeze or a cleared throat beside a person's words.

**No person is heard here.** Each event is a sum of harmonics and filtered noise after what is published of its sound, at the
pitch of the speaker and through a vocal tract of their gender and age. That is enough to ask whether a system notices an event
and answers it; how well a tagger would find people's own, only recordings can tell.

- laugh: voiced bursts, each breathed on and falling in pitch and level, about five a second, at about twice the pitch of
  speech (Bachorowski, Smoski & Owren 2001, "The acoustic features of human laughter")
- cough: an explosive, an intermediate and mostly a voiced phase, broad noise that dies away within half a second (Korpáš,
  Sadloňová & Vrabec 1996, "Analysis of the cough sound: an overview")
- cry: wails of a second or less whose pitch rises and falls, trembling, between audible breaths drawn in (Golub & Corwin 1985,
  "A physioacoustic model of the infant cry", moved to the pitch of the speaker)
- scream: a second of very high pitch, loud and bright, roughened between 30 and 150 Hz (Arnal et al. 2015, "Human screams
  occupy a privileged niche in the communication soundscape"; pitch: Anikin 2020, "A moan of pleasure should be breathy")
- sigh: one deep breath in and a long one out, weak noise that darkens as it fades (Vlemincx et al. 2013, "Respiratory
  variability and sighing", for its depth; breath noise through an open tract)
- sneeze: a breath drawn in, then a burst of hissing air, higher than any other event (Songu & Cingi 2009, "Sneeze reflex:
  facts and fiction")
- throat_clearing: one or two pressed, rough, low grunts without an explosion. No published profile was followed.

Formants are those of an open neutral vowel (Peterson & Barney 1952). The other numbers are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascade.audio import SAMPLE_RATE, Waveform, joined
from distill.teaching.voices import MALE_HZ, Speaker

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
SimulatedEvent = Literal["laugh", "cough", "cry", "scream", "sigh", "throat_clearing", "sneeze"]

FORMANTS_HZ = (700.0, 1250.0, 2550.0, 3600.0)  # of a man; a shorter tract moves all of them up
BANDWIDTHS_HZ = (110.0, 130.0, 180.0, 260.0)
CHILD_TRACT, FEMALE_TRACT = 1.32, 1.16
SCREAM_HZ = 950.0  # of a man; others' are higher, by less than their speech
TOP_HZ = 7600.0  # nothing above, so that nothing folds back
SPEECH_FLOOR = 1e-4  # of the peak's power: what counts as sound when levels are matched
# Level against the words beside it, in dB.
LEVEL_DB: dict[SimulatedEvent, float] = {
    "laugh": 0.0, "cough": 2.0, "cry": 0.0, "scream": 6.0, "sigh": -8.0, "throat_clearing": -3.0, "sneeze": 3.0,
}  # fmt: skip
GAP_S = (0.08, 0.35)
EVENT_FIRST = 0.5  # how often it comes before the words


@dataclass(frozen=True)
class Throat:
    """Where an event comes from: a person's pitch, tract and steadiness, and the dice."""

    pitch_hz: float
    tract: float  # formants against a man's
    rough: float  # 0..1, how unsteady the voice is
    rng: np.random.Generator


def with_event(speech: Waveform, kind: SimulatedEvent, speaker: Speaker, seed: int) -> Waveform:
    """The words (16 kHz, dry) with an event before or after them, at a level that fits theirs. Same arguments, same samples."""
    rng = np.random.default_rng([seed, 7])
    sound = event(kind, speaker, seed)
    gain_db = _active_dbfs(speech) + LEVEL_DB[kind] - _active_dbfs(sound)
    levelled = Waveform((sound.samples * np.float32(10 ** (gain_db / 20))).astype(np.float32), SAMPLE_RATE)
    parts = [levelled, speech] if rng.random() < EVENT_FIRST else [speech, levelled]
    return joined(parts, gap_s=float(rng.uniform(*GAP_S)))


def event(kind: SimulatedEvent, speaker: Speaker, seed: int) -> Waveform:
    """The event alone at 16 kHz, its peak at -6 dB re full scale."""
    tract = CHILD_TRACT if speaker.age == "child" else FEMALE_TRACT if speaker.gender == "female" else 1.0
    rng = np.random.default_rng([seed, sorted(LEVEL_DB).index(kind)])
    throat = Throat(
        speaker.pitch_hz * float(np.exp(rng.normal(0, 0.04))),
        tract * float(np.exp(rng.normal(0, 0.02))),
        0.5 if speaker.age == "elder" else 0.2,
        rng,
    )
    sound = _MAKERS[kind](throat)
    return Waveform((0.5 * sound / np.abs(sound).max()).astype(np.float32), SAMPLE_RATE)


def _active_dbfs(wave: Waveform) -> float:
    power = np.square(wave.samples.astype(np.float64))
    return 10 * float(np.log10(power[power > power.max() * SPEECH_FLOOR].mean()))


# --- sources and filters ------------------------------------------------------------------------------------


def _voice(throat: Throat, pitch_hz: Array, *, tilt_db: float, jitter: float = 0.02) -> Array:
    """Harmonics of a pitch contour (T,) through the tract; `tilt_db` per octave of the source, `jitter` in shares of pitch."""
    steps = max(2, len(pitch_hz) // 160)
    wander = np.interp(
        np.arange(len(pitch_hz)), np.linspace(0, len(pitch_hz), steps), throat.rng.standard_normal(steps)
    )
    contour = pitch_hz * (1 + jitter * (1 + throat.rough) * wander)
    phase = 2 * np.pi * np.cumsum(contour) / SAMPLE_RATE
    out = np.zeros(len(contour))
    for number in range(1, int(TOP_HZ / contour.min()) + 1):
        hz = number * contour
        level = 10 ** (tilt_db * np.log2(number) / 20) * _tract(hz, throat.tract) * (hz < TOP_HZ)
        out += level * np.sin(number * phase)
    return out / max(float(np.sqrt(np.mean(out**2))), 1e-9)


def _air(throat: Throat, seconds: float, shape: Callable[[Array], Array]) -> Array:
    """Noise of a spectrum: `shape` gives the magnitude at a frequency in Hz."""
    count = _count(seconds)
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE).astype(np.float64)
    out = np.fft.irfft(np.fft.rfft(throat.rng.standard_normal(count)) * shape(hz) * (hz < TOP_HZ), count)
    return np.asarray(out / max(float(np.sqrt(np.mean(out**2))), 1e-9))


def _tract(hz: Array, tract: float) -> Array:
    """Resonances in a row, as the poles of an all-pole tract (Fant 1960), with 0 dB at 0 Hz."""
    gain = np.ones_like(hz)
    for formant, width in zip(FORMANTS_HZ, BANDWIDTHS_HZ, strict=True):
        middle = formant * tract
        gain = gain * middle**2 / np.sqrt((middle**2 - hz**2) ** 2 + (width * tract * hz) ** 2)
    return gain


def _breath(throat: Throat) -> Callable[[Array], Array]:
    """Air through an open tract: its formants, damped."""
    return lambda hz: np.sqrt(_tract(hz, throat.tract)) * hz / (hz + 300)


def _band(low_hz: float, high_hz: float) -> Callable[[Array], Array]:
    """A band with soft edges: 12 dB per octave outside."""
    return lambda hz: 1 / np.sqrt((1 + (low_hz / np.maximum(hz, 1)) ** 4) * (1 + (hz / high_hz) ** 4))


def _count(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _curve(seconds: float, *points: tuple[float, float]) -> Array:
    """A contour through (share of the time, value)."""
    at, values = zip(*points, strict=True)
    return np.asarray(np.interp(np.linspace(0, 1, _count(seconds)), at, values))


def _silence(seconds: float) -> Array:
    return np.zeros(_count(seconds))


# --- the events ---------------------------------------------------------------------------------------------


def _laugh(throat: Throat) -> Array:
    rng, parts = throat.rng, []
    calls = int(rng.integers(5, 9))
    period_s = 1 / rng.uniform(4.6, 5.4)
    height = rng.uniform(1.7, 2.3)
    for number in range(calls):
        fade = 0.87**number
        call_s = period_s * rng.uniform(0.52, 0.6)
        breath_s = period_s * 0.2
        start_hz = throat.pitch_hz * height * 0.965**number
        pitch = _curve(call_s, (0, start_hz), (0.3, 1.05 * start_hz), (1, 0.8 * start_hz))
        voiced = _voice(throat, pitch, tilt_db=-2) + 0.15 * _air(throat, call_s, _breath(throat))
        parts += [
            fade * 0.16 * _air(throat, breath_s, _breath(throat)) * _curve(breath_s, (0, 0), (0.5, 1), (1, 0.7)),
            fade * voiced * _curve(call_s, (0, 0), (0.15, 1), (0.6, 0.8), (1, 0)),
            _silence(period_s - call_s - breath_s),
        ]
    return np.concatenate(parts)


def _cough(throat: Throat) -> Array:
    rng = throat.rng
    parts = []
    for number in range(int(rng.integers(1, 4))):
        fade = 0.8**number
        parts += [fade * _one_cough(throat), _silence(rng.uniform(0.1, 0.25))]
    return np.concatenate(parts[:-1])


def _one_cough(throat: Throat) -> Array:
    burst_s, middle_s, end_s = (throat.rng.uniform(*span) for span in ((0.03, 0.05), (0.14, 0.22), (0.05, 0.12)))
    burst = _air(throat, burst_s, _band(350, 4200)) * _curve(burst_s, (0, 0), (0.08, 1), (1, 0.55))
    middle = _air(throat, middle_s, lambda hz: _breath(throat)(hz) * _band(300, 3500)(hz))
    middle *= 0.45 * np.exp(-2.2 * _curve(middle_s, (0, 0), (1, 1)))
    voiced = _voice(throat, _curve(end_s, (0, 1.5 * throat.pitch_hz), (1, throat.pitch_hz)), tilt_db=-3, jitter=0.06)
    return np.concatenate([burst, middle, 0.12 * voiced * _curve(end_s, (0, 0), (0.2, 1), (1, 0))])


def _cry(throat: Throat) -> Array:
    rng, parts = throat.rng, []
    for number in range(int(rng.integers(2, 4))):
        wail_s, gasp_s = rng.uniform(0.55, 0.95), rng.uniform(0.16, 0.26)
        top_hz = throat.pitch_hz * rng.uniform(1.8, 2.3) * 0.95**number
        pitch = _curve(wail_s, (0, 0.8 * top_hz), (0.3, top_hz), (1, 0.62 * top_hz))
        shake = 2 * np.pi * rng.uniform(6, 9) * np.arange(len(pitch)) / SAMPLE_RATE
        wail = _voice(throat, pitch * (1 + 0.035 * np.sin(shake)), tilt_db=-3, jitter=0.03)
        wail += 0.12 * _air(throat, wail_s, _breath(throat))
        wail *= _curve(wail_s, (0, 0), (0.12, 1), (0.6, 0.8), (1, 0)) * (1 + 0.35 * np.sin(shake))
        gasp = 0.2 * _air(throat, gasp_s, _band(900, 4500)) * _curve(gasp_s, (0, 0), (0.8, 1), (1, 0))
        parts += [wail, _silence(0.05), gasp, _silence(0.03)]
    return np.concatenate(parts)


def _scream(throat: Throat) -> Array:
    rng = throat.rng
    seconds = rng.uniform(0.8, 1.3)
    top_hz = SCREAM_HZ * (throat.pitch_hz / MALE_HZ) ** 0.4 * rng.uniform(0.9, 1.2)
    pitch = _curve(seconds, (0, 0.6 * top_hz), (0.12, top_hz), (0.75, 0.97 * top_hz), (1, 0.65 * top_hz))
    rough_hz = rng.uniform(50, 90)
    rough = 1 + 0.6 * np.sin(2 * np.pi * rough_hz * np.arange(len(pitch)) / SAMPLE_RATE)
    loud = _voice(throat, pitch, tilt_db=4) + 0.2 * _air(throat, seconds, _breath(throat))
    return loud * rough * _curve(seconds, (0, 0), (0.06, 1), (0.8, 0.9), (1, 0))


def _sigh(throat: Throat) -> Array:
    rng = throat.rng
    in_s, out_s = rng.uniform(0.35, 0.55), rng.uniform(0.9, 1.4)
    drawn = 0.35 * _air(throat, in_s, _band(900, 3800)) * _curve(in_s, (0, 0), (0.7, 1), (1, 0))
    bright, dark = _air(throat, out_s, _breath(throat)), _air(throat, out_s, _band(250, 900))
    darker = _curve(out_s, (0, 0), (1, 1))
    out = ((1 - darker) * bright + darker * dark) * _curve(out_s, (0, 0), (0.1, 1), (0.4, 0.6), (1, 0))
    return np.concatenate([drawn, _silence(0.06), out])


def _sneeze(throat: Throat) -> Array:
    rng = throat.rng
    in_s, burst_s, tail_s = rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.16), rng.uniform(0.16, 0.28)
    drawn = 0.12 * _air(throat, in_s, _band(800, 3500)) * _curve(in_s, (0, 0), (0.8, 1), (1, 0.2))
    burst = _air(throat, burst_s, _band(2600 * throat.tract, 7000)) * _curve(burst_s, (0, 0), (0.1, 1), (1, 0.75))
    pitch = _curve(tail_s, (0, 1.6 * throat.pitch_hz), (1, 0.9 * throat.pitch_hz))
    tail = 0.35 * _air(throat, tail_s, _band(1500, 6000)) + 0.1 * _voice(throat, pitch, tilt_db=-4, jitter=0.04)
    return np.concatenate([drawn, _silence(0.08), burst, tail * _curve(tail_s, (0, 1), (1, 0))])


def _throat_clearing(throat: Throat) -> Array:
    rng, parts = throat.rng, []
    for number in range(int(rng.integers(1, 3))):
        seconds = rng.uniform(0.2, 0.34)
        low_hz = throat.pitch_hz * rng.uniform(0.62, 0.75)
        pitch = _curve(seconds, (0, low_hz), (0.5, 1.08 * low_hz), (1, 0.85 * low_hz))
        grunt = _voice(throat, pitch, tilt_db=-4, jitter=0.07) + 0.55 * _air(throat, seconds, _band(200, 1600))
        creak = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(24, 32) * np.arange(len(pitch)) / SAMPLE_RATE)
        shape = _curve(seconds, (0, 0), (0.25, 1), (0.7, 0.8), (1, 0))
        parts += [0.85**number * grunt * creak * shape, _silence(rng.uniform(0.06, 0.12))]
    return np.concatenate(parts[:-1])


_MAKERS: dict[SimulatedEvent, Callable[[Throat], Array]] = {
    "laugh": _laugh, "cough": _cough, "cry": _cry, "scream": _scream, "sigh": _sigh,
    "throat_clearing": _throat_clearing, "sneeze": _sneeze,
}  # fmt: skip
