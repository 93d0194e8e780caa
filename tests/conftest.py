"""No test reaches the network, and each has a home of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade.asr import pocketsphinx
from cascade.tts import espeak

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
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
