"""Each simulated event has the marks that are published of it, in the pitch of the person whose it is."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.audio import SAMPLE_RATE, Samples, Waveform
from distill.comparison.vocal_events import GAP_S, LEVEL_DB, Array, SimulatedEvent, event, with_event
from distill.teaching.voices import Speaker, cast_of

FRAME, HOP = 640, 160  # 40 ms every 10 ms
SEEDS = range(2)


def person(gender: str, age: str = "adult") -> Speaker:
    return next(one for one in cast_of("test") if (one.gender, one.age) == (gender, age))


def frames(wave: Waveform) -> Array:
    return np.lib.stride_tricks.sliding_window_view(wave.samples.astype(np.float64), FRAME)[::HOP]


def pitches(wave: Waveform) -> Array:
    """By the highest peak of the autocorrelation between 50 and 1600 Hz; 0 where it is under half, or the frame is soft."""
    cut = frames(wave) * np.hanning(FRAME)
    power = np.sum(cut**2, axis=1)
    lags = np.fft.irfft(np.abs(np.fft.rfft(cut, 2 * FRAME, axis=1)) ** 2, axis=1)[:, :FRAME]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(FRAME), 2 * FRAME)) ** 2)[:FRAME]
    lags = lags / np.maximum(lags[:, :1], 1e-9) / (window / window[0])
    low, high = SAMPLE_RATE // 1600, SAMPLE_RATE // 50
    best = lags[:, low:high].max(axis=1)
    first = np.argmax(lags[:, low:high] > 0.9 * best[:, None], axis=1)  # not a multiple of the period
    at = np.array([low + one + np.argmax(row[low + one : low + one + 8]) for one, row in zip(first, lags, strict=True)])
    return np.where((best > 0.5) & (power > 1e-3 * power.max()), SAMPLE_RATE / at, 0.0)


def voiced_share(wave: Waveform) -> float:
    return float(np.mean(pitches(wave) > 0))


def middle_pitch(wave: Waveform) -> float:
    found = pitches(wave)
    return float(np.median(found[found > 0]))


def centroid_hz(samples: Array | Samples) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(np.sum(power * np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)) / np.sum(power))


def envelope(wave: Waveform, smooth_s: float) -> Array:
    size = round(smooth_s * SAMPLE_RATE)
    return np.convolve(np.abs(wave.samples.astype(np.float64)), np.ones(size) / size, "same")


def modulation(wave: Waveform, low_hz: float, high_hz: float) -> float:
    """Share of the envelope's movement between 2 and 200 Hz that lies in a band."""
    level = envelope(wave, 0.002)
    power = np.abs(np.fft.rfft((level - level.mean()) * np.hanning(len(level)))) ** 2
    hz = np.fft.rfftfreq(len(level), 1 / SAMPLE_RATE)
    return float(power[(hz >= low_hz) & (hz <= high_hz)].sum() / power[(hz >= 2) & (hz <= 200)].sum())


def burst_rate(wave: Waveform) -> float:
    """Bursts a second, 3 to 8: where the envelope is most like itself."""
    level = envelope(wave, 0.03)[::16]  # 1000 a second
    level = level - level.mean()
    alike = [float(np.mean(level[lag:] * level[:-lag])) for lag in range(125, 334)]
    return 1000 / (125 + int(np.argmax(alike)))


def thirds(wave: Waveform) -> list[Waveform]:
    return [Waveform(part, SAMPLE_RATE) for part in np.array_split(wave.samples, 3)]


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_laugh_is_five_falling_bursts_a_second(gender: str, seed: int) -> None:
    who = person(gender)
    wave = event("laugh", who, seed)
    assert 0.9 < wave.duration_s < 1.8
    assert 4.2 < burst_rate(wave) < 5.8
    assert 1.4 * who.pitch_hz < middle_pitch(wave) < 2.5 * who.pitch_hz
    first, _, last = thirds(wave)
    assert last.level_dbfs < first.level_dbfs - 2
    assert middle_pitch(last) < middle_pitch(first)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cough_explodes_and_dies_away(seed: int) -> None:
    wave = event("cough", person("male"), seed)
    level = envelope(wave, 0.005)
    assert np.argmax(level) < 0.05 * SAMPLE_RATE  # at once
    assert level[int(0.15 * SAMPLE_RATE)] < 0.5 * level.max()
    assert voiced_share(wave) < 0.4
    assert 0.2 < wave.duration_s < 1.8


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cry_wails_high_and_trembles(gender: str, seed: int) -> None:
    who = person(gender)
    wave = event("cry", who, seed)
    assert wave.duration_s > 1.3
    assert voiced_share(wave) > 0.5
    assert 1.3 * who.pitch_hz < middle_pitch(wave) < 2.4 * who.pitch_hz
    heard = pitches(Waveform(wave.samples[: SAMPLE_RATE // 2], SAMPLE_RATE))  # of the first wail
    assert np.median(heard[:5]) < 0.95 * np.median(heard[15:25])  # rises
    assert modulation(wave, 5, 10) > 0.05


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_scream_is_high_and_rough(gender: str, seed: int) -> None:
    wave = event("scream", person(gender), seed)
    assert 0.8 <= wave.duration_s <= 1.3
    assert voiced_share(wave) > 0.7
    assert 750 < middle_pitch(wave) < 1600
    assert modulation(wave, 30, 150) > 2 * modulation(event("cry", person(gender), seed), 30, 150)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sigh_is_long_air_that_darkens(seed: int) -> None:
    wave = event("sigh", person("female"), seed)
    assert wave.duration_s > 1.3
    assert voiced_share(wave) < 0.05
    out = wave.samples[len(wave.samples) // 2 :].astype(np.float64)
    assert centroid_hz(out[len(out) // 2 :]) < 0.8 * centroid_hz(out[: len(out) // 2])


@pytest.mark.parametrize("gender", ["female", "male"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_cleared_throat_is_a_low_grunt(gender: str, seed: int) -> None:
    who = person(gender)
    wave = event("throat_clearing", who, seed)
    assert 0.15 < wave.duration_s < 1.0
    assert middle_pitch(wave) < 0.9 * who.pitch_hz
    assert np.argmax(envelope(wave, 0.005)) > 0.03 * SAMPLE_RATE  # no explosion


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sneeze_hisses_higher_than_anything_else(seed: int) -> None:
    centroids = {kind: centroid_hz(event(kind, person("male"), seed).samples) for kind in LEVEL_DB}
    others = [value for kind, value in centroids.items() if kind != "sneeze"]
    assert centroids["sneeze"] > 1.4 * max(others)


def test_events_are_in_the_voice_of_the_person() -> None:
    for kind in ("laugh", "cry", "throat_clearing"):
        assert middle_pitch(event(kind, person("female"), 3)) > 1.3 * middle_pitch(event(kind, person("male"), 3))
    child, man = event("cough", person("male", "child"), 3), event("cough", person("male"), 3)
    assert centroid_hz(child.samples) > centroid_hz(man.samples)


@pytest.mark.parametrize("kind", LEVEL_DB)
def test_words_stay_as_they_are_beside_an_event(kind: SimulatedEvent) -> None:
    rng = np.random.default_rng(0)
    words = Waveform(rng.uniform(-0.2, 0.2, SAMPLE_RATE).astype(np.float32), SAMPLE_RATE)
    places = set()
    for seed in range(4):
        whole = with_event(words, kind, person("female"), seed)
        first = np.array_equal(whole.samples[-SAMPLE_RATE:], words.samples)
        assert first or np.array_equal(whole.samples[:SAMPLE_RATE], words.samples)
        places.add(first)
        alone = event(kind, person("female"), seed)
        assert GAP_S[0] <= whole.duration_s - words.duration_s - alone.duration_s <= GAP_S[1] + 1e-3
        sound = whole.samples[:-SAMPLE_RATE] if first else whole.samples[SAMPLE_RATE:]
        power = np.square(sound.astype(np.float64))
        active_db = 10 * np.log10(power[power > 1e-4 * power.max()].mean())
        assert active_db == pytest.approx(words.level_dbfs + LEVEL_DB[kind], abs=0.2)
    assert places == {True, False}


def test_another_seed_is_another_event() -> None:
    one, same, other = (event("laugh", person("male"), seed).samples for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one[: len(other)], other[: len(one)])
