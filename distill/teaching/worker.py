"""A process that makes rows: it loads a profile's engines once, then turns scenarios into rows as bytes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from cascade.cancel import CancelScope
from cascade.home import using_home
from cascade.profiles import Engines, load_profile
from distill.teaching.make import Maker
from distill.teaching.records import Scenario
from distill.teaching.settings import Settings


@dataclass(frozen=True)
class Equipment:
    """What every worker loads: a profile by name or absolute path. `cache`: a file, a Redis URL, or None. `home`: of voice banks
    that are named by name; None: the usual one.
    """

    profile: str
    swaps: tuple[str, ...]
    settings: Settings
    cache: str | None = None
    home: str | None = None

    def engines(self) -> Engines:
        """Loaded. Raises ConfigError, EngineUnavailable."""
        with using_home(Path(self.home)) if self.home else nullcontext():
            return Engines.load(load_profile(self.profile, self.swaps))


@dataclass(frozen=True)
class Made:
    """One row: `row` as an Arrow IPC stream. `hits`, `misses`: of the cache, by stage, since the worker began."""

    index: int
    row: bytes
    rejected: tuple[str, ...]
    seconds: float
    worker: str
    hits: dict[str, int]
    misses: dict[str, int]


class Worker:
    def __init__(self, equipment: Equipment, engines: Engines | None = None) -> None:
        """`engines`: loaded already, this worker's to close. Raises ConfigError, EngineUnavailable."""
        from distill.teaching.cache import cached
        from distill.teaching.stores import open_store

        engines = engines or equipment.engines()
        self._engines = engines
        self._store = open_store(equipment.cache) if equipment.cache else None
        self._cached = cached(engines, self._store) if self._store else engines
        self._maker = Maker(self._cached, equipment.settings, self._store)
        self.name = f"{os.uname().nodename}-{os.getpid()}"

    def row(self, scenario: Scenario, cancel: CancelScope | None = None) -> Made:
        """Raises Cancelled."""
        from distill.teaching.dataset.rows import table_of

        began = time.perf_counter()
        sample = self._maker.make(scenario, cancel)
        row = ipc_bytes(table_of(sample))
        hits, misses = self._counts()
        return Made(scenario.index, row, sample.rejected, time.perf_counter() - began, self.name, hits, misses)

    def _counts(self) -> tuple[dict[str, int], dict[str, int]]:
        from distill.teaching.cache import tallies

        found = tallies(self._cached)
        return {stage: tally.hits for stage, tally in found.items()}, {s: tally.misses for s, tally in found.items()}

    def close(self) -> None:
        self._engines.close()
        if self._store:
            self._store.close()


def ipc_bytes(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def table_from(row: bytes | Path) -> Any:
    """A table of one row from a stream or a file that holds one. Raises pyarrow's errors where it is not whole."""
    import pyarrow as pa

    return pa.ipc.open_stream(row if isinstance(row, bytes) else row.read_bytes()).read_all()


# --- in a process of a pool

_worker: Worker | None = None
_trouble: Exception | None = None  # why there is none


def begin(equipment: Equipment | None) -> None:
    """A pool's initializer; with equipment for a worker that makes rows. Raised here, an error would be told as a death."""
    global _worker, _trouble
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker = Worker(equipment) if equipment else None
    except Exception as error:
        _trouble = error


def _end_with_parent() -> None:
    """A worker whose run was killed must not go on for nobody."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def make_rows(scenarios: Sequence[str]) -> list[Made]:
    """Scenarios as JSON → their rows. Raises what kept the worker from beginning."""
    if _trouble:
        raise _trouble
    assert _worker is not None, "begin() runs first"
    return [_worker.row(Scenario.model_validate_json(scenario)) for scenario in scenarios]
