"""Workers on this machine: what keeps them from beginning is told, and what hangs in them keeps nobody waiting."""

from __future__ import annotations

import time

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
