from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.audio import Waveform, joined
from cascade.cancel import CancelScope
from cascade.errors import Cancelled, EngineFailed, EngineUnavailable
from cascade.judging import quality
from cascade.needs import extra
from cascade.tts.espeak import Espeak

pytest.importorskip("speechmos")

RATE = 16_000


@pytest.fixture(scope="module")
def judge() -> quality.SpeechQuality:
    return quality.SpeechQuality()


@pytest.fixture(scope="module")
def spoken(voice: Espeak) -> Waveform:
    """Of 4.6 s: doubled, it fills one window."""
    text = "I lost my job yesterday, and I do not know what to do, for the rent is due on Monday morning."
    wave = voice.speak(text, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave
    assert wave.duration_s > 4.6
    return Waveform(wave.samples[: round(4.6 * wave.sample_rate)], wave.sample_rate)


@pytest.fixture(scope="module")
def shipped() -> Path:
    import speechmos

    return Path(speechmos.__path__[0]) / "dnsmos_models"


def noisy(wave: Waveform, snr_db: float) -> Waveform:
    noise = np.random.default_rng(0).standard_normal(len(wave.samples), dtype=np.float32)
    level = 10 ** ((wave.level_dbfs - snr_db) / 20)
    return Waveform((wave.samples + level * noise).astype(np.float32), wave.sample_rate)


def test_noise_lowers_the_score(judge: quality.SpeechQuality, spoken: Waveform) -> None:
    clean, some, buried = (judge.score(wave, CancelScope()) for wave in (spoken, noisy(spoken, 10), noisy(spoken, -5)))
    assert 5 >= clean > some > buried >= 1
    assert clean - buried > 0.5
    assert isinstance(clean, float)


def test_the_same_speech_has_the_same_score(judge: quality.SpeechQuality, spoken: Waveform) -> None:
    first = judge.score(spoken, CancelScope())
    assert judge.score(spoken, CancelScope()) == first
    assert quality.SpeechQuality().score(spoken, CancelScope()) == first
    assert judge.score(spoken.resampled(48_000), CancelScope()) == pytest.approx(first, abs=0.1)


@pytest.mark.parametrize("seconds", [3.0, 9.01, 10.9, 11.2])
def test_it_is_the_score_of_the_package(judge: quality.SpeechQuality, shipped: Path, seconds: float) -> None:
    from speechmos.dnsmos import DNSMOS

    theirs = DNSMOS(str(shipped / "sig_bak_ovr.onnx"), str(shipped / "model_v8.onnx"))
    theirs.audio_melspec = lambda audio: np.zeros((900, 120))  # for the other network, whose score is not compared
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)
    samples *= np.linspace(0, 1, len(samples), dtype=np.float32)
    expected = theirs(samples, RATE, False)["ovrl_mos"]
    assert judge.score(Waveform(samples, RATE), CancelScope()) == pytest.approx(max(expected, 1.0), abs=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 1600, 160_000])
def test_silence_is_the_worst_speech(judge: quality.SpeechQuality, samples: int) -> None:
    assert judge.score(Waveform(np.zeros(samples, np.float32), RATE), CancelScope()) == 1.0


def test_too_loud_sound_is_clipped(judge: quality.SpeechQuality, spoken: Waveform) -> None:
    loud = Waveform(spoken.samples * np.float32(50), spoken.sample_rate)
    assert 1 <= judge.score(loud, CancelScope()) < judge.score(spoken, CancelScope())


@pytest.mark.parametrize(
    ("samples", "count"), [(1, 7), (1600, 3), (73_600, 1), (144_160, 1), (160_000, 1), (192_000, 3)]
)
def test_windows(samples: int, count: int) -> None:
    found = list(quality.windows(np.arange(samples, dtype=np.float32)))
    assert [len(window) for window in found] == [quality.WINDOW] * count
    assert [window[0] for window in found] == [index * RATE % samples for index in range(count)]


def test_threads_change_no_score(judge: quality.SpeechQuality, spoken: Waveform) -> None:
    two = quality.SpeechQuality(threads=2)
    assert two.score(spoken, CancelScope()) == pytest.approx(judge.score(spoken, CancelScope()), abs=1e-4)


@pytest.mark.parametrize(("raw", "score"), [(50.0, 1.0), (-50.0, 1.0), (4.5, 3.695)])
def test_the_score_stays_on_the_scale(
    judge: quality.SpeechQuality, spoken: Waveform, monkeypatch: pytest.MonkeyPatch, raw: float, score: float
) -> None:
    monkeypatch.setattr(judge, "_session", Network(raw))
    assert judge.score(spoken, CancelScope()) == pytest.approx(score, abs=1e-3)


def test_no_number_is_a_failure(
    judge: quality.SpeechQuality, spoken: Waveform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_session", Network(float("nan")))
    with pytest.raises(EngineFailed, match=r"DNSMOS gave nan"):
        judge.score(spoken, CancelScope())


class Network:
    """Says the same of every window."""

    def __init__(self, raw: float) -> None:
        self._raw = raw

    def run(self, *_: Any) -> Any:
        return [np.full((1, 3), self._raw, np.float32)]


def test_a_stopped_turn_does_not_wait_for_the_network(
    judge: quality.SpeechQuality, spoken: Waveform, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, let_go, session = threading.Event(), threading.Event(), judge._session
    ran = []

    class Stuck:
        def run(self, *args: Any) -> Any:
            ran.append(args)
            entered.set()
            assert let_go.wait(30)
            return session.run(*args)

    monkeypatch.setattr(judge, "_session", Stuck())
    scope = CancelScope()
    threading.Thread(target=lambda: (entered.wait(30), scope.cancel()), daemon=True).start()
    with pytest.raises(Cancelled):
        judge.score(joined([spoken] * 6), scope)
    let_go.set()
    with pytest.raises(Cancelled):
        judge.score(Waveform(np.zeros(0, np.float32), RATE), scope)
    assert 1 <= judge.score(spoken, CancelScope()) <= 5
    assert len(ran) == 2, "the windows left of a stopped call are not judged"


@pytest.mark.parametrize("content", [b"", b"not a network" * 100, None])
def test_a_file_that_is_no_network_is_one_line(
    shipped: Path, tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((shipped / "sig_bak_ovr.onnx").read_bytes()[:500_000] if content is None else content)
    with pytest.raises(EngineUnavailable, match=r"model\.onnx: not a network that ONNX Runtime can read") as caught:
        quality.SpeechQuality(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_another_network_is_refused_and_a_copy_of_the_right_one_is_not(
    shipped: Path, tmp_path: Path, judge: quality.SpeechQuality, spoken: Waveform
) -> None:
    with pytest.raises(EngineUnavailable, match=r"model_v8\.onnx: not DNSMOS's sig_bak_ovr\.onnx: it reads .*900"):
        quality.SpeechQuality(shipped / "model_v8.onnx")
    with pytest.raises(EngineUnavailable, match=r"nowhere\.onnx: not a network"):
        quality.SpeechQuality(tmp_path / "nowhere.onnx")
    own = Path(shutil.copy(shipped / "sig_bak_ovr.onnx", tmp_path / "own.onnx"))
    assert quality.SpeechQuality(own).score(spoken, CancelScope()) == judge.score(spoken, CancelScope())


def test_it_changes_nothing_around_it(spoken: Waveform, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> tuple[Any, ...]:
        return np.random.get_state()[1].tolist(), logging.root.level, logging.root.handlers[:], warnings.filters[:]

    before = state()
    quality.SpeechQuality().score(spoken, CancelScope())
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_a_first_import_changes_nothing_and_comes_late() -> None:
    code = """
import logging, random, sys, warnings
import numpy as np
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.judging import quality
assert not {"speechmos", "onnxruntime", "librosa"} & set(sys.modules)
def state(): return random.getstate(), np.random.get_state()[1].tolist(), logging.root.handlers[:], warnings.filters[:]
before = state()
quality.SpeechQuality().score(Waveform(np.full(16000, 0.5, np.float32), 16000), CancelScope())
after = state()
assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
assert "numba" not in sys.modules, "librosa's compiler, which takes many seconds"
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [need.fix for need in quality.needs()] == [None, None, None]
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert quality.needs()[0].fix == extra("judge")
