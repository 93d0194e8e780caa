"""Collecting turns: each is one row, whoever reads it and whenever a reader or Redis dies; who withdraws has none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from live_turns import ANN, BEN, Server, spoken_turn, spooled

from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable, InputError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished, problems_of, read_manifest
from distill.teaching.dataset.shards import PLACES, read_rows, shards_of
from distill.teaching.live import collect as collecting
from distill.teaching.live.collect import Collected, collect, split_of
from distill.teaching.live.commands import consent
from distill.teaching.live.consent import LOCAL, give
from distill.teaching.live.contribution import Letter, Spool
from distill.teaching.live.contributor import withdraw
from distill.teaching.live.forgetting import forget, renew
from distill.teaching.live.sources import RedisSource, Source, SpoolSource
from distill.teaching.live.stream import GROUP, TURNS, TurnStream, flush
from distill.teaching.records import SPLITS, Sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def kept(_: Sample) -> tuple[str, ...]:
    return ()


def redis_source(server: Server, **options: Any) -> RedisSource:
    options = {"cancel": CancelScope(), "tell": print, **options}
    return RedisSource(server.url, **options)


def collected(source: Source, folder: Path, gate: collecting.Gate = kept, **options: Any) -> Collected:
    return collect(source, folder, gate=gate, once=True, cancel=CancelScope(), tell=print, **options)


def rows(folder: Path, *columns: str) -> list[tuple[Any, ...]]:
    """Of all places, each with its place first."""
    return [
        (place, *(row[name] for name in columns))
        for place in PLACES
        for path in shards_of(folder, place)
        for row in read_rows(path, columns)
    ]


def turns_in(folder: Path) -> Counter[str]:
    return Counter(template for _, template in rows(folder, "template"))


def sent(server: Server, home: Path, contributor: str, count: int) -> None:
    assert flush(spooled(home, contributor, count, server.url), TurnStream(server.url)) == count


def started(consumers: list[subprocess.Popen[str]]) -> list[str]:
    """All at once; what they print until they end."""
    for consumer in consumers:
        assert consumer.stdin is not None
        consumer.stdin.write("go\n")
        consumer.stdin.flush()
    return [consumer.communicate(timeout=60)[0] for consumer in consumers]


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


# --- exactly once


def test_consumers_that_die_at_the_worst_moments_lose_and_double_nothing(tmp_path: Path, server: Server) -> None:
    sent(server, tmp_path, ANN, 24)
    folder = tmp_path / "data"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests" / "live_consumer.py", server.url, folder]
    consumers = [
        subprocess.Popen([*command, moment], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        for moment in ("judging", "between", "before_done", "never", "never")
    ]
    for consumer in consumers:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "ready\n"
    ends = started(consumers[:3])  # these first, for the others might leave them nothing
    ends += started(consumers[3:])
    assert [consumer.returncode for consumer in consumers] == [-9, -9, -9, 0, 0], ends
    assert turns_in(folder) == {f"live-sa-{index}": 1 for index in range(24)}
    assert server.client.xlen(TURNS) == 0
    assert server.client.xpending(TURNS, GROUP)["pending"] == 0
    rejected = {seed for place, seed in rows(folder, "seed") if place == "rejected"}
    assert rejected == {seed for seed in range(24) if seed % 3 == 0}


def test_a_turn_that_two_hold_is_written_by_the_first(tmp_path: Path, server: Server) -> None:
    sent(server, tmp_path, ANN, 3)
    slow, quick = redis_source(server), redis_source(server, min_idle_ms=0)
    folder = tmp_path / "data"

    def overtaken(_: Sample) -> tuple[str, ...]:
        if not rows(folder, "id"):
            assert collected(quick, folder).kept == 3
        return ()

    assert collected(slow, folder, overtaken) == Collected(known=3)
    assert set(turns_in(folder).values()) == {1}


def test_a_row_is_what_was_given(tmp_path: Path, server: Server) -> None:
    sent(server, tmp_path, ANN, 1)
    stopped = spoken_turn(tmp_path / "t", 7, heard_text="That is")
    TurnStream(server.url).add(
        Letter(contributor=BEN, turn=stopped),
        ((tmp_path / "t" / "turn-0007-user.wav").read_bytes(), (tmp_path / "t" / "turn-0007-reply.wav").read_bytes()),
    )
    result = collected(redis_source(server), tmp_path / "data")
    assert (result.kept, result.rejected, result.reasons) == (1, 1, {"failed": 1})
    columns = ("source", "speaker", "contributor", "split", "template", "heard_text", "user_text", "reply_text")
    whole, cut = rows(tmp_path / "data", *columns)
    split = split_of(ANN)
    assert whole == (split, "live", ANN, ANN, split, "live-sa-0", "sentence 0", None, "That is hard.")
    assert cut[0] == "rejected"
    assert cut[3] == BEN


def test_a_person_is_in_one_split_and_all_splits_have_people() -> None:
    people = [f"{number:032x}" for number in range(2000)]
    shares = Counter(map(split_of, people))
    assert set(shares) == set(SPLITS)
    assert 0.75 < shares["train"] / 2000 < 0.85
    assert list(map(split_of, people)) == list(map(split_of, people))


# --- faults


def test_while_redis_is_away_it_waits_and_then_goes_on(tmp_path: Path, server: Server) -> None:
    cancel, lines = CancelScope(), []
    folder, source = tmp_path / "data", redis_source(server, cancel=cancel, tell=lines.append)
    results = []
    options: Any = {"gate": kept, "gather_s": 0, "cancel": cancel, "tell": lines.append}
    thread = Thread(target=lambda: results.append(collect(source, folder, **options)))
    sent(server, tmp_path, ANN, 3)
    thread.start()
    try:
        wait_for(lambda: len(rows(folder, "id")) == 3)
        server.kill()
        wait_for(lambda: any("waiting for it" in line for line in lines))
        server.start()
        sent(server, tmp_path, BEN, 3)
        wait_for(lambda: len(rows(folder, "id")) == 6)
    finally:
        cancel.cancel()
        thread.join(10)
    assert not thread.is_alive()
    assert set(turns_in(folder).values()) == {1}
    assert [line for line in lines if "waiting" in line or "back" in line] == [lines[0], lines[1]]
    assert results[0].kept == 6
    assert server.client.xlen(TURNS) == 0


def test_an_outage_can_be_cancelled_and_loses_nothing(tmp_path: Path, server: Server) -> None:
    sent(server, tmp_path, ANN, 2)
    cancel = CancelScope()

    def gone(_: Sample) -> tuple[str, ...]:
        server.kill()
        cancel.cancel()
        return ()

    source = redis_source(server, cancel=cancel)
    result = collect(source, tmp_path / "data", gate=gone, once=True, cancel=cancel, tell=print)
    assert result == Collected()
    server.start()
    assert collected(redis_source(server, min_idle_ms=0), tmp_path / "data").kept == 2


def test_a_redis_that_forgot_everything_is_read_on(tmp_path: Path, server: Server) -> None:
    source = redis_source(server)
    server.client.flushall()
    sent(server, tmp_path, ANN, 1)
    assert collected(source, tmp_path / "data").kept == 1


def test_a_redis_that_is_not_there_or_no_stream_is_one_line(server: Server) -> None:
    server.client.set(TURNS, "x")
    with pytest.raises(EngineFailed, match="WRONGTYPE"):
        redis_source(server)
    server.kill()
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        redis_source(server)


def test_what_cannot_be_read_is_left_out_with_a_reason(tmp_path: Path, server: Server) -> None:
    lines: list[str] = []
    server.client.xadd(TURNS, {"hello": "world"})
    server.client.xadd(TURNS, dict.fromkeys(("letter", "user", "user_sha256", "reply", "reply_sha256"), b"\xff"))
    sent(server, tmp_path, ANN, 1)
    source = redis_source(server)
    result = collect(source, tmp_path / "d", gate=kept, once=True, cancel=CancelScope(), tell=lines.append)
    assert (result.kept, result.unreadable) == (1, 2)
    assert [line.count("\n") for line in lines] == [0, 0]
    assert "fields are missing" in lines[0]
    assert "sha256" in lines[1]
    assert server.client.xlen(TURNS) == 0


def test_a_gate_that_fails_on_a_turn_rejects_it(tmp_path: Path, server: Server) -> None:
    def broken(_: Sample) -> tuple[str, ...]:
        raise EngineFailed("the recognizer died")

    sent(server, tmp_path, ANN, 1)
    result = collected(redis_source(server), tmp_path / "data", broken)
    assert (result.rejected, result.reasons) == (1, {"failed": 1})


def test_a_full_disk_leaves_the_turns_with_the_source(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise InputError("no space left on the disk")

    sent(server, tmp_path, ANN, 2)
    with monkeypatch.context() as patched:
        patched.setattr(collecting, "write_shard", full)
        with pytest.raises(InputError, match="no space"):
            collected(redis_source(server), tmp_path / "data")
    assert collected(redis_source(server, min_idle_ms=0), tmp_path / "data").kept == 2


# --- the spool


def test_turns_given_on_this_machine_are_taken_from_the_spool(tmp_path: Path) -> None:
    spooled(tmp_path, ANN, 3, LOCAL)
    spool = spooled(tmp_path, BEN, 1, "redis://elsewhere")
    broken = spool.folder / "broken"
    broken.mkdir()
    source = SpoolSource(spool, cancel=CancelScope())
    result = collected(source, tmp_path / "data", shard_rows=2)
    assert (result.kept, result.unreadable) == (3, 1)
    assert turns_in(tmp_path / "data") == {f"live-sa-{index}": 1 for index in range(3)}
    assert spool.entries() == ["sb-0"]  # it waits for its stream
    assert [path.name for path in spool.folder.iterdir()] == ["sb-0"]


# --- withdrawal


def test_who_withdraws_has_no_row_and_no_turn_left(tmp_path: Path, server: Server) -> None:
    home, folder = tmp_path / "home", tmp_path / "data"
    ann = give(home, server.url).contributor
    sent(server, home, ann, 3)
    sent(server, tmp_path, BEN, 2)
    assert collected(redis_source(server), folder).kept == 5
    (folder / "report.html").write_text("with their voices")
    stream, session = TurnStream(server.url), home / "sessions" / "more"
    letters = [Letter(contributor=ann, place=server.url, turn=spoken_turn(session, index)) for index in range(3)]
    Spool(home).put(letters[0], session)
    assert flush(Spool(home), stream) == 1
    Spool(home).put(letters[1], session)

    gone = withdraw(home)
    assert (gone.spool, gone.stream, gone.unreached) == (1, 1, ())
    assert server.client.xlen(TURNS) == 0
    assert Spool(home).entries() == []
    Spool(home).put(letters[2], session)  # a chat that had not noticed yet
    assert flush(Spool(home), stream) == 0
    assert Spool(home).entries() == []

    assert collected(redis_source(server), folder).forgotten == 3
    assert turns_in(folder) == {"live-sb-0": 1, "live-sb-1": 1}
    assert not (folder / "report.html").exists()


def test_withdrawn_while_a_consumer_has_the_turn(tmp_path: Path, server: Server) -> None:
    sent(server, tmp_path, ANN, 2)
    sent(server, tmp_path, BEN, 1)

    def regrets(_: Sample) -> tuple[str, ...]:
        TurnStream(server.url).withdraw(ANN)
        return ()

    result = collected(redis_source(server), tmp_path / "data", regrets)
    assert (result.kept, result.withdrawn) == (1, 2)
    assert turns_in(tmp_path / "data") == {"live-sb-0": 1}


def test_withdrawn_while_the_last_row_is_written(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(server, tmp_path, ANN, 1)
    write, cancel = collecting.write_shard, CancelScope()

    def late(*given: Any) -> int:
        TurnStream(server.url).withdraw(ANN)
        cancel.cancel()
        return write(*given)

    monkeypatch.setattr(collecting, "write_shard", late)
    result = collect(redis_source(server), tmp_path / "data", gate=kept, shard_rows=1, cancel=cancel, tell=print)
    assert (result.kept, result.forgotten) == (1, 1)
    assert rows(tmp_path / "data", "id") == []


def test_a_withdrawal_in_the_spool_is_heeded(tmp_path: Path) -> None:
    spool = spooled(tmp_path, ANN, 2, LOCAL)
    assert collected(SpoolSource(spool, cancel=CancelScope()), tmp_path / "data").kept == 2
    spool.withdraw(ANN)
    assert collected(SpoolSource(spool, cancel=CancelScope()), tmp_path / "data").forgotten == 2


def test_forgetting_touches_nothing_else_and_the_manifest_is_made_anew(tmp_path: Path) -> None:
    for contributor in (ANN, BEN):
        spool = spooled(tmp_path, contributor, 2, LOCAL)
    folder = tmp_path / "data"
    collected(SpoolSource(spool, cancel=CancelScope()), folder)
    finished(folder, {"seed": 7}, Facts.of(folder))
    assert problems_of(folder) == []
    whole = {path: path.read_bytes() for place in PLACES for path in shards_of(folder, place)}
    assert forget(folder, ["c" * 32]) == 0
    assert not renew(folder)
    assert {path: path.read_bytes() for path in whole} == whole
    half = folder / "rejected" / ".live-0.parquet.0.part"
    half.parent.mkdir()
    half.write_text("her voice")
    assert forget(folder, [ANN]) == 2
    assert forget(folder, [ANN]) == 0
    assert not half.exists()
    assert not (folder / "manifest.json").exists()
    assert turns_in(folder) == {"live-sb-0": 1, "live-sb-1": 1}
    assert renew(folder)
    assert problems_of(folder) == []
    assert sum(read_manifest(folder).rows.values()) == 2
    assert read_manifest(folder).settings == {"seed": 7}
    assert not renew(folder)


def test_the_command_deletes_rows_of_datasets_too(tmp_path: Path) -> None:
    ann = give(tmp_path).contributor
    folder = tmp_path / "data"
    collected(SpoolSource(spooled(tmp_path, ann, 2, LOCAL), cancel=CancelScope()), folder)
    shown = CliRunner().invoke(consent, ["withdraw", "--home", str(tmp_path), "--dataset", str(folder)])
    assert shown.exit_code == 0
    assert f"{folder}: 2 rows deleted." in shown.output
    assert rows(folder, "id") == []
