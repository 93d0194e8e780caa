"""Where the cache keeps its bytes: one SQLite file for the processes of a machine, or a Redis server for many machines.

A store may be thrown away at any time and never ends the work: what it cannot give is made again, what it cannot keep is
told in one line, once.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from cascade.errors import ConfigError, EngineUnavailable, InputError, one_line
from cascade.needs import extra

T = TypeVar("T")
Tell = Callable[[str], None]

MAX_BYTES = 2 * 1024**3  # of a SQLite store: about 8,000 sentences of speech
TTL_S = 14 * 24 * 3600  # of an entry in Redis that nobody asks for
APPLICATION_ID = 0x41747401  # in the header of our SQLite files: "Att" and the layout's version
BUSY_S = 10.0  # how long to wait for another process that writes
TOUCHES = 256  # entries read before their use is written down: a read alone writes nothing
SPARE = 0.1  # share of max_bytes that one eviction makes free
LARGEST_SHARE = 0.25  # of max_bytes: what is larger is not kept, for it would drive out too much
REDIS_TIMEOUT_S = 3.0
REDIS_REST_S = 10.0  # after a failure nothing is asked for so long: a lost server must not cost a timeout every time
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Store(Protocol):
    """Bytes by key. Safe to use from several threads; `get` and `put` never raise for what the store suffers."""

    def get(self, key: str) -> bytes | None:
        """None: not there, or not to be had."""
        ...

    def put(self, key: str, value: bytes) -> None: ...

    def close(self) -> None: ...


def open_store(place: str | Path, *, max_bytes: int = MAX_BYTES, tell: Tell | None = None) -> Store:
    """A store by path (SQLite), or by redis://, rediss:// or unix:// URL. `tell` gets each line for a person.

    Raises InputError (a file that cannot be used), ConfigError (another URL), EngineUnavailable (no redis package).
    """
    if "://" not in str(place):
        return SqliteStore(Path(place), max_bytes=max_bytes, tell=tell)
    if urlsplit(str(place)).scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            f"cache {place!r}: give the path of a file, or a URL that begins with redis://, rediss:// or unix://"
        )
    return RedisStore(str(place), tell=tell)


def _to_stderr(line: str) -> None:
    print(f"attune: {line}", file=sys.stderr)


class _Once:
    """Tells the first line and no other."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell, self._told = tell or _to_stderr, False

    def __call__(self, line: str) -> None:
        if not self._told:
            self._told = True
            self._tell(line)


# --- SQLite -------------------------------------------------------------------------------------------------


class SqliteStore:
    """One file, read and written by several processes at once (write-ahead log); each opens it for itself, after a fork.

    The pages in use stay below `max_bytes`: the least recently used entries go first. A process killed while it writes loses that
    entry alone. A file that is found corrupt is begun anew, with a line to say so.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, tell: Tell | None = None) -> None:
        """Raises InputError: the file cannot be made, read or written, or is another program's database."""
        self.path, self.max_bytes = path.expanduser().absolute(), max_bytes
        self._tell, self._failed = tell or _to_stderr, _Once(tell)
        self._lock = threading.Lock()  # one connection for all threads: a stage's thread lives for one call
        self._touched: dict[str, None] = {}
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._try(self._shrink)
        except (OSError, sqlite3.Error) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            raise InputError(f"{path}: a cache cannot be kept there ({why}); name another file") from error

    def get(self, key: str) -> bytes | None:
        with self._lock:
            row = self._try(lambda db: db.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone())
            if row is None:
                return None
            self._touched[key] = None
            if len(self._touched) >= TOUCHES:
                self._try(self._write)
            return bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        if len(value) <= self.max_bytes * LARGEST_SHARE:
            with self._lock:
                self._try(lambda db: self._write(db, key, value))

    def close(self) -> None:
        with self._lock:
            if self._touched:
                self._try(self._write)
            if self._db is not None:
                self._db.close()
                self._db = None

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """None where the file does not let it be done."""
        if self._db is None:
            return None
        try:
            return work(self._db)
        except sqlite3.Error as error:
            if _is_corrupt(error):
                self._open_anew(error)
            else:
                self._failed(
                    f"{self.path}: the cache cannot be used now ({one_line(error)}); the work goes on without it"
                )
            return None

    def _write(self, db: sqlite3.Connection, key: str | None = None, value: bytes = b"") -> None:
        """The uses since the last time, and one new entry. `used` is a clock of its own: one more for each write."""
        with db:  # commits, or rolls back
            db.execute("BEGIN IMMEDIATE")
            (now,) = db.execute("SELECT coalesce(max(used), 0) + 1 FROM entries").fetchone()
            db.executemany("UPDATE entries SET used = ? WHERE key = ?", [(now, touched) for touched in self._touched])
            if key is not None:
                db.execute("REPLACE INTO entries VALUES (?, ?, ?, ?)", (key, now, len(value), value))
                self._evict(db)
        self._touched.clear()

    def _evict(self, db: sqlite3.Connection) -> None:
        excess = _bytes_in_use(db) - self.max_bytes
        if excess > 0:
            before = "SELECT key, sum(size) OVER (ORDER BY used, key) - size AS before FROM entries"
            enough = excess + self.max_bytes * SPARE
            db.execute(f"DELETE FROM entries WHERE key IN (SELECT key FROM ({before}) WHERE before < ?)", (enough,))

    def _shrink(self, db: sqlite3.Connection) -> None:
        """A file that was allowed more before is made smaller."""
        if _bytes_in_use(db) > self.max_bytes:
            with db:
                db.execute("BEGIN IMMEDIATE")
                self._evict(db)
            db.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page

    def _open(self) -> None:
        """Raises OSError, sqlite3.Error, InputError."""
        with _alone(self.path):
            try:
                self._db = self._connected()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._discard(error)
                self._db = self._connected()
            self._inode = self.path.stat().st_ino

    def _open_anew(self, error: sqlite3.Error) -> None:
        """After corruption was met. Where another process has begun anew already, its file is opened."""
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = None
        self._touched.clear()
        try:
            with _alone(self.path):
                if self.path.exists() and self.path.stat().st_ino == self._inode:
                    self._discard(error)
            self._open()
        except (OSError, sqlite3.Error, InputError) as again:
            self._failed(
                f"{self.path}: the cache is corrupt and cannot be begun anew ({one_line(again)}); going on without"
            )

    def _discard(self, error: sqlite3.Error) -> None:
        """Take the corrupt file away: deleted if its header says that it is ours, else kept beside."""
        if _application_id(self.path) == APPLICATION_ID:
            self.path.unlink()
            fate = "what it held is made again"
        else:
            kept = self.path.with_name(self.path.name + ".broken")
            self.path.replace(kept)
            fate = f"the old file is kept as {kept.name}"
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._tell(f"{self.path}: the cache was corrupt ({one_line(error)}); begun anew, {fate}")

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            tables, owner = _scalar(db, "SELECT count(*) FROM sqlite_master"), _scalar(db, "PRAGMA application_id")
            if tables and owner != APPLICATION_ID:
                raise InputError(
                    f"{self.path}: a database, but no cache of this Attune's; delete it or name another file"
                )
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # with the log: safe from a kill, and no waiting for the disk
            db.execute("PRAGMA secure_delete = OFF")
            if not tables:
                _make_tables(db)
            return db
        except BaseException:
            db.close()
            raise


def _make_tables(db: sqlite3.Connection) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, used INTEGER, size INTEGER, value BLOB)")
        db.execute("CREATE INDEX by_use ON entries (used, key, size)")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _scalar(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


def _bytes_in_use(db: sqlite3.Connection) -> int:
    pages = _scalar(db, "PRAGMA page_count") - _scalar(db, "PRAGMA freelist_count")
    return pages * _scalar(db, "PRAGMA page_size")


def _is_corrupt(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in CORRUPT  # the low byte: the primary code


def _application_id(path: Path) -> int:
    """Bytes 68 to 71 of a SQLite file's header (sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        head = file.read(72)
    return int.from_bytes(head[68:72], "big") if head.startswith(b"SQLite format 3\0") else 0


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process opens or replaces the file meanwhile. A killed one lets go of itself."""
    handle = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- Redis --------------------------------------------------------------------------------------------------


class RedisStore:
    """A Redis server (6.2 or later), shared by many machines.

    An entry lives `ttl_s` seconds after it was last asked for, so a server with `maxmemory` and any eviction policy (allkeys-lru,
    volatile-lru …) can drop it, and one without forgets it in the end. While the server is away nothing is cached.
    """

    def __init__(
        self, url: str, *, prefix: str = "attune:cache:", ttl_s: int = TTL_S, tell: Tell | None = None
    ) -> None:
        """Raises EngineUnavailable (no redis package), ConfigError (not a URL of Redis's). The server is not asked yet."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise EngineUnavailable(f"a cache in Redis needs the package redis: {extra('live')}") from error
        self._prefix, self._ttl_s, self._failed = prefix, ttl_s, _Once(tell)
        self._where = _without_password(url)
        self._error: type[Exception] = redis.RedisError
        self._rest_until = 0.0
        limits = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
        try:  # one try: making a thing again takes less time than waiting for a server
            self._client: Any = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)
        except ValueError as error:
            raise ConfigError(f"cache {self._where}: {one_line(error)}; e.g. redis://localhost:6379/0") from None

    def get(self, key: str) -> bytes | None:
        found = self._try(lambda: self._client.getex(self._prefix + key, ex=self._ttl_s))
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        self._try(lambda: self._client.set(self._prefix + key, value, ex=self._ttl_s))

    def close(self) -> None:
        self._client.close()

    def _try(self, work: Callable[[], Any]) -> Any:
        if time.monotonic() < self._rest_until:
            return None
        try:
            return work()
        except (self._error, OSError) as error:
            self._rest_until = time.monotonic() + REDIS_REST_S
            self._failed(
                f"Redis at {self._where} does not serve the cache ({one_line(error)}); the work goes on without it"
            )
            return None


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
