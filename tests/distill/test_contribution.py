"""Giving turns: which, how they wait, how they reach a stream once, and that a chat never suffers from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import thinking
from live_turns import ANN, Server, spoken_turn, spooled

from cascade.audio import read_speech
from cascade.cancel import CancelScope
from cascade.errors import ConfigError, EngineFailed, EngineUnavailable, InputError
from cascade.turn import Exchange, Failure
from distill.teaching.live import contributor as contributing
from distill.teaching.live import stream as streams
from distill.teaching.live.consent import LOCAL, consent_of, give, unsettled
from distill.teaching.live.contribution import Contribution, Letter, Spool, opened, refusal
from distill.teaching.live.contributor import Contributor, open_contributor, withdraw
from distill.teaching.live.sources import RedisSource
from distill.teaching.live.stream import TURNS, TurnStream, checked_url, flush, shown


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "s"


class Chat:
    """A contributor with the lines it told and the questions it asked."""

    def __init__(self, home: Path, url: str | None, answer: bool = True) -> None:
        self.lines: list[str] = []
        self.asked: list[str] = []

        def ask(question: str) -> bool:
            self.asked.append(question)
            return answer

        self.contributor = open_contributor(home, url, ask, self.lines.append)

    @property
    def gives(self) -> Contributor:
        assert self.contributor is not None
        return self.contributor


# --- which turns


def test_crisis_failure_and_typing_are_never_given(session: Path) -> None:
    failure = Failure(stage="emotion", kind="timeout", message="late")
    assert refusal(spoken_turn(session), []) is None
    assert refusal(spoken_turn(session, heard_text="That"), []) is None  # stopped: the gates' matter
    for changes in (
        {"thought": thinking(strategy="care")},
        {"failures": (failure,)},
        {"source": "text", "user_audio": None},
        {"reply": None},
    ):
        turn = spoken_turn(session, **changes)
        assert refusal(turn, [])
        with pytest.raises(ValueError, match="1 validation error"):  # nor is one taken that somebody sends
            Letter(contributor=ANN, turn=turn)
    assert refusal(spoken_turn(session), [Exchange(said="x", replied="y", strategy="care")])


def test_what_was_said_before_consent_or_in_a_crisis_does_not_go_along(tmp_path: Path, session: Path) -> None:
    before = spoken_turn(session, 0)
    chat = Chat(tmp_path, None)
    for index in (1, 2):
        chat.gives.turn(spoken_turn(session, index), session)
    last = Spool(tmp_path).letter("s-2")
    assert [exchange.said for exchange in last.history] == ["sentence 1"]
    assert before.created_at < last.turn.created_at
    spoken_turn(session, 3, thought=thinking(strategy="care"))
    chat.gives.turn(spoken_turn(session, 4), session)
    assert Spool(tmp_path).entries() == ["s-1", "s-2"]
    assert chat.lines == []


# --- the chat


def test_it_asks_once_and_a_no_gives_nothing(tmp_path: Path) -> None:
    assert Chat(tmp_path, None, answer=False).contributor is None
    assert not (tmp_path / "consent.json").exists()
    assert len(Chat(tmp_path, None).asked) == 1
    assert Chat(tmp_path, None).asked == []
    elsewhere = Chat(tmp_path, f"unix://{tmp_path}/nobody")
    assert len(elsewhere.asked) == 1  # another place, another question
    elsewhere.gives.close()


def test_no_fault_reaches_the_chat(tmp_path: Path, session: Path) -> None:
    chat = Chat(tmp_path, None)
    turn = spoken_turn(session)
    (session / "turn-0000-user.wav").write_bytes(b"other sound")
    chat.gives.turn(turn, session)
    (session / "turn-0000-user.wav").unlink()
    chat.gives.turn(turn, session)
    assert len(chat.lines) == 2
    assert "sha256" in chat.lines[0]
    assert Spool(tmp_path).entries() == []


def test_withdrawn_in_another_window_nothing_more_is_given(tmp_path: Path, session: Path) -> None:
    chat = Chat(tmp_path, None)
    chat.gives.turn(spoken_turn(session, 0), session)
    assert withdraw(tmp_path).spool == 1
    for index in (1, 2):
        chat.gives.turn(spoken_turn(session, index), session)
    assert Spool(tmp_path).entries() == []
    assert len([line for line in chat.lines if "withdrawn" in line]) == 1


def test_while_redis_is_away_turns_wait_and_go_out_later(
    tmp_path: Path, session: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contributing, "LAST_S", 10.0)
    server.kill()
    chat = Chat(tmp_path, server.url)
    chat.gives.turn(spoken_turn(session, 0), session)
    chat.gives.close()
    assert any("cannot be reached" in line for line in chat.lines)
    assert any("not sent yet: 1 " in line for line in chat.lines)
    server.start()
    later = Chat(tmp_path, server.url)
    later.gives.turn(spoken_turn(session, 1), session)
    later.gives.close()
    assert later.lines == []
    assert later.asked == []
    assert Spool(tmp_path).entries() == []
    assert server.client.xlen(TURNS) == 2


def test_a_withdrawal_that_missed_the_stream_is_made_up_for(tmp_path: Path, server: Server) -> None:
    given = give(tmp_path, server.url)
    flush(spooled(tmp_path, given.contributor, 2, server.url), TurnStream(server.url))
    server.kill()
    missed = withdraw(tmp_path)
    assert missed.stream == 0
    assert len(missed.unreached) == 1
    server.start()
    Chat(tmp_path, server.url).gives.close()
    assert server.client.xlen(TURNS) == 0
    assert unsettled(tmp_path) == ()
    assert consent_of(tmp_path) is not None  # the new one


# --- the stream


def test_a_turn_arrives_as_it_was_and_is_never_sent_twice(tmp_path: Path, server: Server) -> None:
    spool, stream = spooled(tmp_path, ANN, 2, server.url), TurnStream(server.url)
    session = tmp_path / "sessions" / "sa"
    assert flush(spool, stream) == 2
    assert spool.entries() == []
    again = spooled(tmp_path, ANN, 2, server.url)  # as if the answer had been lost
    assert flush(again, stream) == 0
    assert again.entries() == []
    assert server.client.xlen(TURNS) == 2
    found = RedisSource(server.url, cancel=CancelScope(), tell=print).read(9, 0)
    first = found[0]
    assert isinstance(first, Contribution)
    assert first.letter.contributor == ANN
    assert np.array_equal(first.user_speech.samples, read_speech(session / "turn-0000-user.wav").samples)
    assert np.array_equal(first.reply_speech.samples, read_speech(session / "turn-0000-reply.wav").samples)


def test_what_is_given_to_one_place_goes_to_no_other(tmp_path: Path, server: Server) -> None:
    spool = spooled(tmp_path, ANN, 1, LOCAL)
    assert flush(spool, TurnStream(server.url)) == 0
    assert spool.entries() == ["sa-0"]


def test_a_full_stream_leaves_turns_in_the_spool(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_WAITING", 1)
    spool = spooled(tmp_path, ANN, 2, server.url)
    with pytest.raises(EngineUnavailable, match="is full"):
        flush(spool, TurnStream(server.url))
    assert spool.entries() == ["sa-1"]


def test_a_redis_that_refuses_is_one_line(server: Server) -> None:
    server.client.set(TURNS, "not a stream")
    with pytest.raises(EngineFailed, match="refuses: WRONGTYPE"):
        TurnStream(server.url).waiting()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379", "http://localhost", "redis://", "redis://host:none/0", "redis://host:70000", "redis://host/one",
        "unix://", "unix://relative/path", "redis://host/0?protocol=9", "",
    ],
)  # fmt: skip
def test_a_bad_url_is_one_clear_line(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis://HOST:PORT/DB") as caught:
        checked_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://u:secret@host:1/2", "unix:///run/redis.sock?db=1"])
def test_a_good_url_is_shown_without_its_password(url: str) -> None:
    assert checked_url(url) == url
    assert shown(url) == url.replace("u:secret@", "")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(EngineUnavailable, match=r"\[live\]"):
        TurnStream("redis://localhost")


# --- what comes in is not trusted


def test_sound_that_is_not_what_the_record_says_is_refused(tmp_path: Path) -> None:
    entry = "sa-0"
    letter, (user, reply) = spooled(tmp_path, ANN, 1, LOCAL).contents(entry)
    assert opened(entry, letter, (user, reply)).entry == entry
    bad: list[tuple[bytes, tuple[bytes, bytes], str]] = [
        (b"{", (user, reply), "Invalid JSON"),
        (letter.replace(b'"sa-0"', b'"../../x"'), (user, reply), "turn id"),
        (letter.replace(ANN.encode(), b"Ann"), (user, reply), "contributor"),
        (letter.replace(b'"reflect"', b'"care"'), (user, reply), "crisis"),
        (letter.replace(b'"schema_version":1', b'"schema_version":99'), (user, reply), "schema version"),
        (letter, (b"noise", reply), "not sound"),
        (letter, (user[:-100], reply), "samples"),
        (letter.replace(b'"duration_s":0.2', b'"duration_s":99999.0'), (user, reply), "more than a turn"),
        (letter.replace(b'"sample_rate":16000', b'"sample_rate":8000'), (user, reply), "its record says"),
        (b" " * (5 << 20), (user, reply), "bytes, at most"),
        (letter, (bytes(33 << 20), reply), "bytes of sound"),
    ]
    for json, sounds, why in bad:
        with pytest.raises(InputError, match=why):
            opened(entry, json, sounds)


def test_a_half_written_turn_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        spooled(tmp_path, ANN, 1, LOCAL)
    assert Spool(tmp_path).entries() == []
    assert list((tmp_path / "contributed").iterdir()) == []
