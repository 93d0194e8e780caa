"""Workers on this machine: what keeps them from beginning is told, and what hangs in them keeps nobody waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from multiprocessing import util
from typing import Any

import pytest
from fakes import lingering

from cascade.errors import ConfigError
from distill.teaching import pool
from distill.teaching.pool import infos, local
from distill.teaching.settings import Settings
from distill.teaching.worker import Equipment


def test_what_keeps_a_worker_from_beginning_is_raised_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"profile 'nowhere\.toml' is not known"):
        list(local(Equipment("nowhere.toml", (), Settings()), 1)(["{}"]))
    with pytest.raises(ConfigError, match=r"profile 'nowhere\.toml' is not known"):
        infos(Equipment("nowhere.toml", (), Settings()))


def test_an_engine_that_hangs_in_a_worker_does_not_keep_a_run_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAVE_S", 0.2)
    with pool._pool(1, None) as workers:
        workers.submit(lingering, 120.0).result()
        began = time.monotonic()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_run_while_a_worker_begins_leaves_none_behind_that_says_so(
    number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun: list[int] = []
    start = util.spawnv_passfds

    def disturbed(*arguments: Any) -> int:
        begun.append(start(*arguments))
        os.kill(os.getpid(), number)  # before the worker has been given what it begins with
        return begun[-1]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(util, "spawnv_passfds", disturbed)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            infos(Equipment("nowhere.toml", (), Settings()))
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    with contextlib.suppress(ChildProcessError):  # its pool has waited for it
        os.waitpid(begun[-1], 0)
    assert capfd.readouterr().err == ""
