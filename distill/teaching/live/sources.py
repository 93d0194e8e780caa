"""Where `attune teach --from-stream` takes turns from: a Redis stream, as one of a group of consumers, or the spool here.

A turn that was read is this source's until `done` says that its row is safe; until then it is lost by no death of a process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable, InputError
from distill.teaching.live.consent import LOCAL
from distill.teaching.live.contribution import Contribution, Spool, Unreadable, opened
from distill.teaching.live.stream import GROUP, TURNS, TurnStream

T = TypeVar("T")
Entry = tuple[bytes, dict[bytes, bytes]]

TIMEOUT_S = 10.0
BLOCK_MS = 500  # of one wait for new turns, so that a reader can be stopped
MIN_IDLE_MS = 120_000  # a turn that its reader has not mentioned for so long is another's
FIRST_PAUSE_S, LONGEST_PAUSE_S, LOOK_S = 0.1, 5.0, 0.1

# A consumer that holds nothing may go; one that does keeps its entries, for others to claim.
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""


class Source(Protocol):
    """Methods raise Cancelled when the scope they were given is, EngineFailed when what is behind them refuses."""

    @property
    def place(self) -> str:
        """As a person knows it."""
        ...

    def read(self, limit: int, block_s: float) -> list[Contribution | Unreadable]:
        """Up to `limit` turns not read before; waits up to `block_s` for the first."""
        ...

    def done(self, entries: Iterable[str]) -> None:
        """Their rows are safe: they need not be kept."""
        ...

    def withdrawn(self) -> set[str]:
        """Contributors whose turns must not be used."""
        ...

    def waiting(self) -> int:
        """Turns that are not done, whoever has read them."""
        ...

    def close(self) -> None: ...


def open_source(url: str | None, home: Path, *, cancel: CancelScope, tell: Callable[[str], None]) -> Source:
    """The stream at `url`, or without one the spool in the home folder. Raises as RedisSource."""
    return RedisSource(url, cancel=cancel, tell=tell) if url else SpoolSource(Spool(home), cancel=cancel)


class RedisSource:
    """A consumer of the group "teach". While Redis is away each method waits for it; `cancel` ends that with Cancelled.

    What was read stays this consumer's as long as it reads on; when it dies, others claim it after `min_idle_ms`.
    """

    def __init__(
        self, url: str, *, min_idle_ms: int = MIN_IDLE_MS, cancel: CancelScope, tell: Callable[[str], None]
    ) -> None:
        """Raises ConfigError, EngineUnavailable, EngineFailed: a Redis that is away from the start is no outage."""
        self._stream = TurnStream(url, timeout_s=TIMEOUT_S)
        self._min_idle_ms, self._cancel, self._tell = min_idle_ms, cancel, tell
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: set[bytes] = set()
        self._cursor = b"0-0"
        self.place = self._stream.place
        self._stream.asked(self._group)
        self._stream.asked(self._warn_of_forgetting)

    def read(self, limit: int, block_s: float) -> list[Contribution | Unreadable]:
        """Up to `limit` turns: first those of dead consumers, then new ones, waiting for them up to `block_s`."""
        self._patiently(self._renew)
        entries = self._patiently(lambda: self._claimed(limit))
        end = time.monotonic() + block_s
        while not entries:
            self._cancel.check()
            left_ms = max(1, round((end - time.monotonic()) * 1000))
            entries = self._patiently(partial(self._new, limit, min(BLOCK_MS, left_ms)))
            if left_ms <= BLOCK_MS:
                break
        self._held |= {entry for entry, _ in entries}
        return [_unpacked(entry, fields) for entry, fields in entries]

    def done(self, entries: Iterable[str]) -> None:
        """Their rows are safe: acknowledge them, and delete them from the stream."""
        ids = [entry.encode() for entry in entries]
        if ids:
            self._patiently(lambda: self._acknowledge(ids))
            self._held -= set(ids)

    def withdrawn(self) -> set[str]:
        return self._patiently(lambda: self._stream.withdrawn())

    def waiting(self) -> int:
        return self._patiently(lambda: self._stream.waiting())

    def close(self) -> None:
        """What was read and not done is left for others."""
        with suppress(EngineUnavailable, EngineFailed):  # it only tidies
            self._stream.asked(lambda: self._stream.client.eval(_LEAVE, 1, TURNS, GROUP, self._name))
        self._stream.close()

    # --- calls; each may be made again

    def _group(self) -> None:
        try:
            self._stream.client.xgroup_create(TURNS, GROUP, id="0", mkstream=True)
        except self._stream.errors.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _warn_of_forgetting(self) -> None:
        state = self._stream.client.info("persistence")
        if not state.get("aof_enabled"):
            self._tell(
                f"Redis at {self.place} keeps no append-only file: turns that wait are lost if it dies (set appendonly yes)"
            )

    def _renew(self) -> None:
        """Says that what is held is being worked on."""
        if self._held:
            self._stream.client.xclaim(TURNS, GROUP, self._name, 0, sorted(self._held), justid=True)

    def _claimed(self, limit: int) -> list[Entry]:
        answer = self._stream.client.xautoclaim(
            TURNS, GROUP, self._name, self._min_idle_ms, start_id=self._cursor, count=limit
        )
        self._cursor = answer[0]
        return [(entry, fields) for entry, fields in answer[1] if entry is not None and entry not in self._held]

    def _new(self, limit: int, wait_ms: int) -> list[Entry]:
        answer = self._stream.client.xreadgroup(GROUP, self._name, {TURNS: ">"}, count=limit, block=wait_ms)
        return list(answer[0][1]) if answer else []

    def _acknowledge(self, ids: Sequence[bytes]) -> None:
        with self._stream.client.pipeline(transaction=True) as both:
            both.xack(TURNS, GROUP, *ids)
            both.xdel(TURNS, *ids)
            both.execute()

    def _patiently(self, call: Callable[[], T]) -> T:
        """Its result, however long Redis is away. Raises Cancelled, EngineFailed."""
        pause_s, away = FIRST_PAUSE_S, False
        while True:
            try:
                result = self._stream.asked(lambda: self._in_group(call))
            except EngineUnavailable as error:
                if not away:
                    self._tell(f"{error}; waiting for it")
                away = True
                self._wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if away:
                    self._tell(f"Redis at {self.place} is back; going on")
                return result

    def _in_group(self, call: Callable[[], T]) -> T:
        """A Redis that lost its data, before this call or while it waited, does not know the group."""
        try:
            return call()
        except self._stream.errors.ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._group()
            return call()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._cancel.check()
            time.sleep(min(left, LOOK_S))


def _unpacked(entry: bytes, fields: dict[bytes, bytes]) -> Contribution | Unreadable:
    try:
        names = (b"letter", b"user", b"user_sha256", b"reply", b"reply_sha256")
        if missing := [name.decode() for name in names if name not in fields]:
            raise InputError(f"fields are missing: {', '.join(missing)}")
        for name in (b"user", b"reply"):
            if hashlib.sha256(fields[name]).hexdigest().encode() != fields[name + b"_sha256"]:
                raise InputError(f"{name.decode()}: its content is not what was sent (sha256 differs)")
        return opened(entry.decode(), fields[b"letter"], (fields[b"user"], fields[b"reply"]))
    except InputError as error:
        return Unreadable(entry.decode(), str(error))


class SpoolSource:
    """The turns given on this machine, without Redis. Several may read: each row is written by the first."""

    def __init__(self, spool: Spool, *, cancel: CancelScope) -> None:
        self._spool, self._cancel = spool, cancel
        self._held: set[str] = set()
        self._for_streams: set[str] = set()
        self.place = str(spool.folder)

    def read(self, limit: int, block_s: float) -> list[Contribution | Unreadable]:
        end = time.monotonic() + block_s
        while True:
            self._cancel.check()
            found: list[Contribution | Unreadable] = []
            for entry in self._new():
                if len(found) < limit and (one := self._opened(entry)):
                    found.append(one)
            if found or time.monotonic() >= end:
                self._held |= {one.entry for one in found}
                return found
            time.sleep(LOOK_S)

    def done(self, entries: Iterable[str]) -> None:
        entries = list(entries)
        try:
            self._spool.remove(entries)
        except OSError as error:
            raise EngineFailed(f"{self.place}: cannot be cleared ({error.strerror}); its rows are safe") from error
        self._held -= set(entries)

    def withdrawn(self) -> set[str]:
        return self._spool.withdrawn()

    def waiting(self) -> int:
        return len(self._new()) + len(self._held)

    def close(self) -> None:
        """Nothing is open."""

    def _new(self) -> list[str]:
        return [entry for entry in self._spool.entries() if entry not in self._held | self._for_streams]

    def _opened(self, entry: str) -> Contribution | Unreadable | None:
        """None: another process has taken it, or it is not given on this machine but waits for a stream."""
        try:
            found = opened(entry, *self._spool.contents(entry))
        except FileNotFoundError:
            return None
        except InputError as error:
            return Unreadable(entry, str(error))
        if found.letter.place != LOCAL:
            self._for_streams.add(entry)
            return None
        return found
