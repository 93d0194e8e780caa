"""No test reaches beyond this machine, and each has a home of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.everything import Checkpoints

from cascade.asr import pocketsphinx
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.tts import espeak
from cascade.turn import ReplyEmotion

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: last, it would keep one core busy and the others waiting."""
    items.sort(key=lambda item: item.path.name != "test_runs.py")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to reach {address}")
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def recognizer() -> Iterator[pocketsphinx.PocketSphinx]:
    engine = pocketsphinx.load(pocketsphinx.Options())
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def voice() -> Iterator[espeak.Espeak]:
    engine = espeak.load(espeak.Options())
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def spoken_sentence(voice: espeak.Espeak) -> Waveform:
    """Three seconds of speech."""
    text = "I lost my job yesterday, and I do not know what to do."
    return voice.speak(text, emotion="sad", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave


@pytest.fixture(scope="session")
def checkpoints(voice: espeak.Espeak, tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Small checkpoints for the engines of the gpu profile, each made when first used."""
    text = "The table stands by the window, and the keys are on the shelf."
    clips: dict[str, tuple[Waveform, str]] = {}
    emotions: tuple[ReplyEmotion, ...] = ("neutral", "happy", "sad")
    for emotion in emotions:
        speech = voice.speak(text, emotion=emotion, intensity=1.0, rate=1.0, seed=0, cancel=CancelScope())
        clips[emotion] = (speech.wave, text)
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"), clips)
