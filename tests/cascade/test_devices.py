"""Loudspeaker and microphone against a PortAudio that only the test moves."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import tone

from cascade import devices
from cascade.audio import SAMPLE_RATE, Waveform
from cascade.cancel import CancelScope
from cascade.errors import EngineUnavailable
from cascade.tts.espeak import Espeak


class Stream:
    """Both directions: the test pulls output by `pull`, input reads from `sound`."""

    sound = np.zeros(0, np.float32)
    latency = 0.0

    def __init__(self, **options: Any) -> None:
        self.callback = options.get("callback")
        self.at = 0

    def start(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None: ...

    def pull(self, frames: int) -> np.ndarray:
        assert self.callback is not None
        out = np.full((frames, 1), 9.0, np.float32)
        self.callback(out, frames, None, None)
        return out[:, 0]

    def read(self, frames: int) -> tuple[np.ndarray, bool]:
        piece = self.sound[self.at : self.at + frames]
        self.at += frames
        return np.pad(piece, (0, frames - len(piece)))[:, None], False


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(OutputStream=Stream, InputStream=Stream, query_devices=lambda kind: {"name": kind})
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_the_loudspeaker_plays_pieces_in_order_then_silence(portaudio: SimpleNamespace) -> None:
    speaker = devices.Loudspeaker(16_000)
    first, second = tone(0.01), tone(0.01, hz=500)
    speaker.play(first)
    speaker.play(second)
    got = np.concatenate([speaker._device.pull(100) for _ in range(4)])
    assert np.array_equal(got[:320], np.concatenate([first.samples, second.samples]))
    assert np.all(got[320:] == 0)
    assert speaker.played_s == pytest.approx(0.02)


def test_waiting_ends_when_all_was_played_or_stopped(portaudio: SimpleNamespace) -> None:
    speaker = devices.Loudspeaker(16_000)
    for finish in (lambda: [speaker._device.pull(8000) for _ in range(3)], speaker.stop):
        speaker.play(tone(1.0))
        waiting = threading.Thread(target=speaker.wait)
        waiting.start()
        finish()
        waiting.join(5)
        assert not waiting.is_alive()
    before = speaker.played_s
    assert np.all(speaker._device.pull(100) == 0)
    assert speaker.played_s == before


def test_a_recording_ends_when_the_speaker_pauses(
    portaudio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, voice: Espeak
) -> None:
    arguments: dict[str, Any] = {
        "emotion": "neutral",
        "intensity": 0.7,
        "rate": 1.0,
        "seed": 0,
        "cancel": CancelScope(),
    }
    speech = voice.speak("I lost my job yesterday.", **arguments).wave.resampled(SAMPLE_RATE).samples
    silence = np.zeros(SAMPLE_RATE, np.float32)
    monkeypatch.setattr(Stream, "sound", np.concatenate([silence, speech, *[silence] * 5]))
    *levels, wave = devices.record_turn()
    assert isinstance(wave, Waveform)
    assert all(isinstance(level, float) for level in levels)
    spoken_s = 1 + len(speech) / SAMPLE_RATE
    assert spoken_s + 0.5 < wave.duration_s < spoken_s + devices.END_SILENCE_S + 0.5


def test_no_portaudio_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    why = devices.problem("output")
    assert why is not None
    assert "libportaudio2" in why
    with pytest.raises(EngineUnavailable):
        devices.Loudspeaker(16_000)


def test_no_device_is_one_line(portaudio: SimpleNamespace) -> None:
    def query(kind: str) -> None:
        raise ValueError(f"no {kind} device matches")

    assert devices.problem("input") is None
    portaudio.query_devices = query
    assert devices.problem("input") == "no input sound device (no input device matches)"
