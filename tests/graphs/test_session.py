from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes import FakeReasoner, FakeRecognizer, answer, fake_engines, heard, sad, tone

from cascade.audio import write_wav
from cascade.errors import InputError
from cascade.turn import Baseline, Cues, Exchange, Turn
from graphs.session import Session, check_session_id, open_session
from graphs.state import Done, Event

ROOT = Path(__file__).parents[2]


async def last_turn(events: AsyncIterator[Event]) -> Turn:
    turns = [event.turn async for event in events if isinstance(event, Done)]
    assert len(turns) == 1
    return turns[0]


async def one(session: Session, text: str = "hello") -> Turn:
    return await last_turn(session.ask(text=text))


def test_memory_survives_and_reaches_the_reasoner(tmp_path: Path) -> None:
    reasoner = FakeReasoner(answer("One."), answer("Two."), answer("Three."))

    async def run() -> list[Exchange]:
        async with open_session(tmp_path, "s", fake_engines(2, reasoning=reasoner)) as session:
            await one(session, "first")
            await one(session, "second")
        async with open_session(tmp_path, "s", fake_engines(1, reasoning=reasoner)) as session:
            turn = await one(session, "third")
            assert turn.index == 2
            return await session.history()

    history = asyncio.run(run())
    assert [(exchange.said, exchange.replied) for exchange in history] == [
        ("first", "One."),
        ("second", "Two."),
        ("third", "Three."),
    ]
    assert [len(prompt.history) for prompt in reasoner.asked] == [0, 1, 2]
    assert sorted(path.name for path in (tmp_path / "sessions" / "s").glob("*.json")) == [
        f"turn-000{i}.json" for i in range(3)
    ]


def test_sessions_do_not_hear_each_other(tmp_path: Path) -> None:
    async def run() -> None:
        engines = fake_engines(2)
        async with open_session(tmp_path, "a", engines) as session:
            await one(session)
        async with open_session(tmp_path, "b", engines) as session:
            assert await session.history() == []

    asyncio.run(run())


def test_nothing_of_an_earlier_turn_is_taken_for_this_ones(tmp_path: Path) -> None:
    """A spoken turn with scores, then a typed one without a judge."""

    async def run() -> Turn:
        async with open_session(tmp_path, "s", fake_engines(2)) as session:
            first = await last_turn(session.ask(speech=tone()))
            assert first.scores is not None
            return await last_turn(session.ask(text="x", listen_back=False))

    turn = asyncio.run(run())
    assert turn.scores is None
    assert turn.user_audio is None
    assert "asr" not in turn.timings.stages_s


def test_the_sessions_own_baseline_grows_but_a_calibration_goes_first(tmp_path: Path) -> None:
    voice = Baseline(engine="acoustic", source="session", features={"pitch_st": 1.0}, clips=1)
    calm = sad(0.1).merged(Cues(voice=voice))
    calibration = Baseline(engine="acoustic", source="calibration", features={"pitch_st": 9.0}, clips=3)

    async def run(given: Baseline | None) -> list[Baseline | None]:
        engines = fake_engines(2)
        engines["emotion"].answers[:] = [calm, calm]
        async with open_session(tmp_path, f"s{bool(given)}", engines, calibration=given) as session:
            for _ in range(2):
                async for _event in session.ask(speech=tone()):
                    pass
        return [baseline for _, baseline in engines["emotion"].asked]

    assert asyncio.run(run(calibration)) == [calibration, calibration]
    first, second = asyncio.run(run(None))
    assert first is None
    assert second is not None
    assert second.source == "session"


def test_stopping_while_it_plays_rewrites_what_is_remembered(tmp_path: Path) -> None:
    async def run() -> tuple[list[Exchange], bool]:
        async with open_session(tmp_path, "s", fake_engines(2)) as session:
            await session.stopped(await one(session), "That is")
            await one(session)
            return await session.history(), await session.unfinished()

    history, unfinished = asyncio.run(run())
    assert [exchange.replied for exchange in history] == ["That is", "That is hard. What happened then?"]
    assert not unfinished
    kept = Turn.model_validate_json((tmp_path / "sessions" / "s" / "turn-0000.json").read_text())
    assert kept.heard_text == "That is"
    assert not kept.is_target


CRASHING = """
import asyncio, os, signal, sys, time
from pathlib import Path
from fakes import FakeReasoner, answer, fake_engines, thinking, tone
from graphs.session import open_session

def die(_):
    time.sleep(0.5)  # a thought takes a while; checkpoints are written beside it
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    reasoner = FakeReasoner(answer("One."), answer("Two."), [thinking(), die])
    async with open_session(Path(sys.argv[1]), "s", fake_engines(3, reasoning=reasoner)) as session:
        for _ in range(3):
            async for event in session.ask(speech=tone()):
                pass

asyncio.run(main())
"""


def test_kill_9_in_the_middle_of_a_turn_loses_no_conversation(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    killed = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], env=environment, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL

    async def run() -> tuple[int, bool, Turn, list[Exchange]]:
        # The words were heard before the crash: they are not listened to again.
        engines = fake_engines(asr=FakeRecognizer(), reasoning=FakeReasoner(answer("Three.")))
        async with open_session(tmp_path, "s", engines) as session:
            before, unfinished = len(await session.history()), await session.unfinished()
            turn = await last_turn(session.resume())
            return before, unfinished, turn, await session.history()

    before, unfinished, turn, history = asyncio.run(run())
    assert before == 2
    assert unfinished
    assert turn.index == 2
    assert turn.transcript == heard("i lost my job")
    assert [exchange.replied for exchange in history] == ["One.", "Two.", "Three."]


FIRST_MOMENTS = """
import asyncio, os, signal, sys
from pathlib import Path
import graphs.begin
from graphs.session import AsyncSqliteSaver, open_session
from fakes import fake_engines, tone

def die():
    os.kill(os.getpid(), signal.SIGKILL)

keep, put = graphs.begin.write_wav, AsyncSqliteSaver.aput

def before_it_is_kept(path, wave):
    if path.name == "turn-0001-user.wav":
        die()
    keep(path, wave)

def when_it_is_kept(path, wave):
    keep(path, wave)
    if path.name == "turn-0001-user.wav":
        die()

async def when_begun(self, config, checkpoint, *rest):
    if checkpoint["channel_values"].get("index") == 1:
        await asyncio.sleep(0.5)  # what the node gave is written meanwhile
        die()
    return await put(self, config, checkpoint, *rest)

async def main():
    async with open_session(Path(sys.argv[1]), "s", fake_engines(2)) as session:
        for _ in range(2):
            async for event in session.ask(speech=tone()):
                pass

match sys.argv[2]:
    case "before it is kept":
        graphs.begin.write_wav = before_it_is_kept
    case "when it is kept":
        graphs.begin.write_wav = when_it_is_kept
    case "when begun":
        AsyncSqliteSaver.aput = when_begun
asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before it is kept", "when it is kept", "when begun"])
def test_kill_9_in_the_first_moments_of_a_turn(tmp_path: Path, moment: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", FIRST_MOMENTS, str(tmp_path), moment]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL

    async def run() -> tuple[Turn, bool]:
        async with open_session(tmp_path, "s", fake_engines(2)) as session:
            assert await session.unfinished()
            if moment == "before it is kept":
                with pytest.raises(InputError, match="say it again"):
                    await last_turn(session.resume())
                return await one(session), await session.unfinished()
            return await last_turn(session.resume()), await session.unfinished()

    turn, unfinished = asyncio.run(run())
    assert turn.index == 1
    assert turn.reply is not None
    assert not unfinished


def test_a_turn_that_reached_no_checkpoint_is_heard_again(tmp_path: Path) -> None:
    """Killed in its first moments, a turn has left nothing but its audio."""

    async def run() -> tuple[bool, Turn, bool, list[Exchange]]:
        async with open_session(tmp_path, "s", fake_engines(2)) as session:
            await one(session)
            write_wav(tmp_path / "sessions" / "s" / "turn-0001-user.wav", tone())
            before = await session.unfinished()
            turn = await last_turn(session.resume())
            return before, turn, await session.unfinished(), await session.history()

    before, turn, after, history = asyncio.run(run())
    assert (before, after) == (True, False)
    assert turn.index == 1
    assert turn.transcript == heard("i lost my job")
    assert len(history) == 2


def test_a_new_turn_may_follow_an_unfinished_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], env=environment, check=False, timeout=60)

    async def run() -> tuple[Turn, list[Exchange]]:
        async with open_session(tmp_path, "s", fake_engines()) as session:
            return await one(session, "never mind"), await session.history()

    turn, history = asyncio.run(run())
    assert turn.index == 3
    assert [exchange.said for exchange in history][-1] == "never mind"


@pytest.mark.parametrize("bad", ["", "../up", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_session_name_cannot_leave_its_folder(bad: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        check_session_id(bad)


def test_a_home_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    async def run() -> None:
        async with open_session(tmp_path / "file", "s", fake_engines()):
            pass

    with pytest.raises(InputError, match="--home"):
        asyncio.run(run())


def test_the_clock_starts_with_the_turn(tmp_path: Path) -> None:
    async def run() -> tuple[float, float]:
        async with open_session(tmp_path, "s", fake_engines()) as session:
            began = time.perf_counter()
            turn = await one(session)
            return time.perf_counter() - began, turn.timings.total_s

    outside, inside = asyncio.run(run())
    assert 0 < inside <= outside
