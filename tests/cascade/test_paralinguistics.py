"""Paralinguistics: what is measured is right, does not depend on the microphone's gain, and unknown stays unknown."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import parse_options
from cascade.errors import Cancelled, ConfigError, EngineFailed, EngineUnavailable, InputError
from cascade.paralinguistics import acoustic, features, prosody
from cascade.paralinguistics.baseline import calibrated, grown
from cascade.paralinguistics.features import measured
from cascade.turn import Baseline, Cues, EmotionCue

RATE = 16_000


def voice(
    pitch_hz: float = 120, seconds: float = 2.0, syllables_s: float = 4.0, end_hz: float | None = None, seed: int = 0
):
    """A buzz through three formants, louder and softer `syllables_s` times a second; the pitch glides to `end_hz`."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = np.geomspace(pitch_hz, end_hz or pitch_hz, len(time))
    x = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0)
    for centre in (550, 1500, 2500):
        r = np.exp(-np.pi * 90 / RATE)
        a, b = 2 * r * np.cos(2 * np.pi * centre / RATE), r * r
        impulse = np.zeros(800)
        impulse[0], impulse[1] = 1, a
        for i in range(2, 800):
            impulse[i] = a * impulse[i - 1] - b * impulse[i - 2]
        x = np.convolve(x, impulse)[: len(time)]
    x = x * (0.55 - 0.45 * np.cos(2 * np.pi * syllables_s * time))
    x = 0.3 * x / np.abs(x).max() + 1e-5 * np.random.default_rng(seed).standard_normal(len(x))
    return Waveform(x.astype(np.float32), RATE)


def noise(seconds: float = 2.0) -> Waveform:
    return Waveform((0.1 * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32), RATE)


def tone(seconds: float = 2.0) -> Waveform:
    return Waveform((0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32), RATE)


@pytest.mark.parametrize("pitch_hz", [85.0, 140.0, 220.0, 380.0])
def test_pitch_of_a_steady_voice_is_measured_to_one_percent(pitch_hz: float) -> None:
    found = measured(voice(pitch_hz))
    assert found.pitch_hz == pytest.approx(pitch_hz, rel=0.01)
    assert found.pitch_range_st is not None
    assert found.pitch_range_st < 0.5


def test_pitch_range_of_an_octave_glide() -> None:
    found = measured(voice(120, seconds=3, end_hz=240))
    assert found.pitch_range_st == pytest.approx(0.8 * 12, abs=1.0)  # 10th to 90th percentile
    assert found.values["pitch_trend"] == pytest.approx(12, abs=1.5)


def test_syllables_and_pauses_are_counted() -> None:
    for rate in (3.0, 5.0):
        assert measured(voice(syllables_s=rate, seconds=3)).rate_syllables_s == pytest.approx(rate, rel=0.15)
    one, gap = voice(seconds=1).samples, np.zeros(RATE // 2, np.float32)
    found = measured(Waveform(np.concatenate([one, gap, one, gap, one]), RATE))
    assert found.pauses == 2
    assert found.pause_share == pytest.approx(1 / 4, abs=0.06)


def test_only_the_level_depends_on_the_gain() -> None:
    wave = voice(150)
    softer = Waveform(wave.samples * np.float32(0.25), RATE)
    loud, soft = measured(wave).values, measured(softer).values
    assert loud["level_dbfs"] - soft["level_dbfs"] == pytest.approx(12.04, abs=0.01)
    for name in set(loud) - {"level_dbfs"}:
        assert soft[name] == pytest.approx(loud[name], abs=0.02), name


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_the_sample_rate_does_not_change_what_is_heard(rate: int) -> None:
    wave = voice(150)
    here, there = measured(wave).values, measured(wave.resampled(rate)).values
    for name, within in {"pitch_st": 0.1, "alpha": 1.0, "hammarberg": 1.0, "rate": 0.1, "f2": 0.05}.items():
        assert there[name] == pytest.approx(here[name], abs=within), name


def test_brighter_sound_has_more_above_one_kilohertz() -> None:
    wave = voice(150)
    bright = np.diff(wave.samples, prepend=np.float32(0)).astype(np.float32)  # +6 dB per octave
    assert measured(Waveform(bright, RATE)).values["alpha"] > measured(wave).values["alpha"] + 3


def test_pitch_survives_noise_and_clipping() -> None:
    wave = voice(180)
    noisy = wave.samples + np.float32(wave.samples.std() * 0.15) * noise().samples / noise().samples.std()
    assert measured(Waveform(noisy.astype(np.float32), RATE)).pitch_hz == pytest.approx(180, rel=0.02)
    clipped = np.clip(wave.samples * 8, -1, 1).astype(np.float32)
    assert measured(Waveform(clipped, RATE)).pitch_hz == pytest.approx(180, rel=0.02)


@pytest.mark.parametrize(
    "wave",
    [
        noise(),
        tone(),
        Waveform(np.zeros(RATE, np.float32), RATE),
        voice(seconds=0.1),
        Waveform(np.zeros(3, np.float32), RATE),
    ],
    ids=["noise", "tone", "silence", "too short", "three samples"],
)
def test_what_has_no_voice_is_unknown_and_says_why(wave: Waveform) -> None:
    cues = _analyzer().analyze(wave, baseline=None, cancel=CancelScope())
    assert cues.emotion is not None
    assert cues.emotion.label is None
    assert cues.emotion.probabilities == {}
    assert cues.emotion.reason
    assert cues.gender is not None
    assert cues.gender.reason
    assert cues.voice is None
    moved = prosody.load(prosody.Options()).analyze(wave, baseline=None, cancel=CancelScope()).prosody
    assert moved is not None
    assert moved.pitch_hz is None


def test_prosody_tells_what_it_measured() -> None:
    moved = prosody.load(prosody.Options()).analyze(voice(150), baseline=None, cancel=CancelScope()).prosody
    assert moved is not None
    assert moved.pitch_hz == pytest.approx(150, rel=0.01)
    assert moved.rate_syllables_s == pytest.approx(4, rel=0.15)
    assert moved.pauses == 0


def test_age_is_never_told() -> None:
    age = _analyzer().analyze(voice(), baseline=None, cancel=CancelScope()).age
    assert age is not None
    assert age.label is None
    assert age.reason


def test_a_clip_against_itself_is_calm() -> None:
    wave = voice(150, end_hz=120)
    cue = _analyzer().analyze(wave, baseline=calibrated([wave]), cancel=CancelScope()).emotion
    assert cue is not None
    assert cue.best == "neutral"
    assert sum(cue.probabilities.values()) == pytest.approx(1)


def test_gender_of_a_calm_baseline_follows_pitch_and_vocal_tract() -> None:
    heads = acoustic.heads()
    low, high = measured(voice(95)).values, measured(voice(230)).values
    assert heads["gender_calm"].probabilities(low)["male"] > heads["gender_calm"].probabilities(high)["male"]


def test_threads_share_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    wave, calls, real = voice(133), [], features._measure
    monkeypatch.setattr(features, "_measure", lambda *a: (calls.append(1), real(*a))[1])
    found: list[features.Measured] = []
    threads = [threading.Thread(target=lambda: found.append(measured(wave))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(calls) == 1
    assert all(one == found[0] for one in found)


def test_a_stopped_turn_stops_and_another_can_still_measure() -> None:
    wave, stopped = voice(141), CancelScope()
    stopped.cancel()
    with pytest.raises(Cancelled):
        measured(wave, stopped)
    assert measured(wave).pitch_hz == pytest.approx(141, rel=0.01)


def test_calibration_says_in_one_line_what_is_wrong() -> None:
    with pytest.raises(InputError, match="no clip"):
        calibrated([])
    with pytest.raises(InputError, match=r"clip 2 of 2 .* say it again") as error:
        calibrated([voice(), noise()])
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="12 semitones apart"):
        calibrated([voice(110), voice(220)])
    assert calibrated([voice(118), voice(122)]).features["pitch_st"] == pytest.approx(12 * np.log2(120), abs=0.05)


def test_a_baseline_of_another_version_is_refused() -> None:
    old = Baseline(engine="acoustic", source="calibration", features={"pitch_st": 80.0}, clips=3)
    with pytest.raises(EngineFailed, match="calibrate again"):
        _analyzer().analyze(voice(), baseline=old, cancel=CancelScope())


def test_a_baseline_grows_from_calm_turns_only() -> None:
    def turn(label: str, probability: float, pitch: float) -> Cues:
        rest = "sad" if label == "neutral" else "neutral"
        cue = EmotionCue(probabilities={label: probability, rest: 1 - probability}, threshold=0.6, engine="acoustic")
        own = Baseline(engine="acoustic", source="session", features={"pitch_st": pitch}, clips=1)
        return Cues(emotion=cue, voice=own)

    assert grown(None, turn("angry", 0.9, 90)) is None
    assert grown(None, Cues()) is None
    first = grown(None, turn("neutral", 0.8, 80))
    second = grown(first, turn("neutral", 0.5, 84))  # not sure, but calm is plausible
    assert second is not None
    assert (second.clips, second.features["pitch_st"]) == (2, pytest.approx(82))
    assert grown(second, turn("happy", 0.7, 95)) == second
    calibration = second.model_copy(update={"source": "calibration"})
    assert grown(calibration, turn("neutral", 0.9, 60)) is calibration


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        parse_options("emotion", "acoustic", {"weights": tmp_path / "acoustic.npz"})


@pytest.mark.parametrize("damage", [b"", b"no weights at all", b"PK\x03\x04 half a zip"])
def test_damaged_weights_say_what_to_do(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "acoustic.npz"
    path.write_bytes(damage)
    with pytest.raises(EngineUnavailable, match="install Attune again"):
        acoustic.load(acoustic.Options(weights=path))


def _analyzer() -> acoustic.Acoustic:
    return acoustic.load(acoustic.Options())
