from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    FakeAnalyzer,
    FakeJudge,
    FakeReasoner,
    FakeRecognizer,
    FakeSynthesizer,
    answer,
    fake_engines,
    hang,
    heard,
    scores,
    slow,
    thinking,
    tone,
)

from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.errors import EngineFailed, InputError, OutOfMemory
from cascade.profiles import Engines
from cascade.turn import Reply, Turn
from graphs import begin
from graphs.session import open_session
from graphs.state import Again, Answered, Context, Done, Event, Heard, Perceived, Sentence, Sound, Thinking
from graphs.teacher import graph, make_graph

ROOT = Path(__file__).parents[2]


def take(
    home: Path, engines: Engines, *, cancel_at: type[Event] | None = None, **said: Any
) -> tuple[Turn, list[Event]]:
    """One turn; `cancel_at`: stop as soon as such an event is seen."""

    async def run() -> list[Event]:
        async with open_session(home, "s", engines) as session:
            scope, events = CancelScope(), []
            async for event in session.ask(cancel=scope, **(said or {"speech": tone()})):
                events.append(event)
                if cancel_at and isinstance(event, cancel_at):
                    scope.cancel()
            return events

    events = asyncio.run(run())
    assert isinstance(events[-1], Done)
    return events[-1].turn, events


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_spoken_turn_is_whole(tmp_path: Path) -> None:
    turn, events = take(tmp_path, fake_engines())
    assert turn.is_target
    assert turn.transcript == heard("i lost my job")
    assert turn.cues.emotion is not None
    assert turn.cues.emotion.label == "sad"
    assert turn.cues.prosody is not None
    assert turn.reply is not None
    assert turn.reply.text == "That is hard. What happened then?"
    assert set(turn.timings.stages_s) == {
        "asr",
        "emotion",
        "speaker",
        "events",
        "prosody",
        "reasoning",
        "tts",
        "judging",
    }
    assert sorted(kinds(events)[:5]) == ["Heard"] * 5
    assert kinds(events)[5:] == ["Perceived", "Thinking", "Sentence", "Sound", "Sentence", "Sound", "Answered", "Done"]
    folder = tmp_path / "sessions" / "s"
    assert turn.problems_of_audio(folder) == []
    assert Turn.model_validate_json((folder / "turn-0000.json").read_text()) == turn


def test_first_sound_leaves_before_the_last_sentence_is_thought_or_spoken(tmp_path: Path) -> None:
    order: list[str] = []

    def say(text: str) -> Any:
        def work(_: CancelScope) -> Speech:
            order.append(f"spoken {text}")
            return Speech(tone(0.2))

        return work

    def think(text: str) -> Any:
        def work(_: CancelScope) -> str:
            time.sleep(0.1)
            order.append(f"thought {text}")
            return text

        return work

    reasoner = FakeReasoner(
        [thinking(), think("One."), think("Two."), think("Three."), Reply(text="One. Two. Three.", emotion="sorry")]
    )
    turn, events = take(tmp_path, fake_engines(reasoning=reasoner, tts=FakeSynthesizer(say("1"), say("2"), say("3"))))
    assert order.index("spoken 1") < order.index("thought Two.") < order.index("thought Three.")
    sounds = [event for event in events if isinstance(event, Sound)]
    sentences = [event for event in events if isinstance(event, Sentence)]
    assert sounds[0].at_s < sentences[-1].at_s
    assert turn.timings.first_sound_s == sounds[0].at_s


def test_a_typed_turn_skips_listening(tmp_path: Path) -> None:
    engines = fake_engines(asr=FakeRecognizer(), emotion=FakeAnalyzer())
    turn, events = take(tmp_path, engines, text="i lost my job")
    assert turn.source == "text"
    assert turn.reply is not None
    assert turn.cues.emotion is not None
    assert turn.cues.emotion.label is None
    assert "Heard" not in kinds(events)
    assert engines["asr"].asked == []


@pytest.mark.parametrize("stage", ["asr", "emotion", "speaker", "events", "prosody"])
@pytest.mark.parametrize("how", ["raises", "hangs", "out of memory"])
def test_a_listener_that_fails_leaves_its_cue_unknown_and_the_turn_goes_on(
    tmp_path: Path, stage: str, how: str
) -> None:
    flaw = {
        "raises": [ValueError("broken\nin two lines")],
        "hangs": [hang()],
        "out of memory": [MemoryError(), RuntimeError("CUDA out of memory")],
    }[how]
    engine = FakeRecognizer(*flaw) if stage == "asr" else FakeAnalyzer(*flaw)
    turn, events = take(tmp_path, fake_engines(deadline_s=0.3, **{stage: engine}))
    assert [(f.stage, f.kind) for f in turn.failures] == [(stage, "timeout" if how == "hangs" else "failed")]
    assert "\n" not in turn.failures[0].message
    assert turn.reply is not None
    assert not turn.is_target
    failed = [event for event in events if isinstance(event, Heard) and event.failure]
    assert [event.stage for event in failed] == [stage]
    if stage == "asr":
        assert turn.transcript is None
    if stage == "emotion":
        assert turn.cues.emotion is not None
        assert turn.cues.emotion.label is None


def test_out_of_memory_gets_one_more_try(tmp_path: Path) -> None:
    recognizer = FakeRecognizer(OutOfMemory("too big"), heard("hello"))
    turn, _ = take(tmp_path, fake_engines(asr=recognizer))
    assert turn.transcript == heard("hello")
    assert turn.failures == ()


def test_an_engine_that_still_hangs_is_not_waited_for_again(tmp_path: Path) -> None:
    engines = fake_engines(turns=2, deadline_s=0.3, emotion=FakeAnalyzer(hang(3.0)))

    async def run() -> list[Turn]:
        turns = []
        async with open_session(tmp_path, "s", engines) as session:
            for _ in range(2):
                turns += [event.turn async for event in session.ask(speech=tone()) if isinstance(event, Done)]
        return turns

    first, second = asyncio.run(run())
    assert "no answer within" in first.failures[0].message
    assert "still hanging" in second.failures[0].message
    assert second.timings.stages_s["emotion"] < 0.1
    assert second.reply is not None


@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        ("reasoning", FakeReasoner([thinking(), "Half an answer.", EngineFailed("died")])),
        ("reasoning", FakeReasoner([hang()])),
        ("tts", FakeSynthesizer(EngineFailed("no voice"))),
        ("tts", FakeSynthesizer(Speech(tone()), hang())),
    ],
)
def test_a_failed_answer_is_never_a_reply(tmp_path: Path, stage: str, engine: Any) -> None:
    turn, events = take(tmp_path, fake_engines(deadline_s=0.3, **{stage: engine}))
    assert turn.reply is None
    assert [failure.stage for failure in turn.failures] == [stage]
    assert turn.heard_text == " ".join(event.text for event in events if isinstance(event, Sound))
    assert not turn.is_target
    assert turn.scores is None


def test_stopping_while_listening(tmp_path: Path) -> None:
    engines = fake_engines(asr=FakeRecognizer(slow(10, heard("x"))), reasoning=FakeReasoner())
    began = time.perf_counter()
    turn, _ = take(tmp_path, engines, cancel_at=Heard)
    assert time.perf_counter() - began < 5
    assert turn.transcript is None
    assert turn.reply is None
    assert turn.heard_text == ""
    assert turn.failures == ()


def test_a_stopped_reply_is_remembered_as_far_as_it_was_heard(tmp_path: Path) -> None:
    engines = fake_engines(tts=FakeSynthesizer(Speech(tone()), slow(10, Speech(tone()))))
    turn, _ = take(tmp_path, engines, cancel_at=Sound)
    assert turn.heard_text == "That is hard."
    assert turn.reply is None
    assert turn.reply_audio is not None
    assert not turn.is_target

    async def remembered() -> str:
        async with open_session(tmp_path, "s", engines) as session:
            return (await session.history())[0].replied

    assert asyncio.run(remembered()) == "That is hard."


def teach(folder: Path, engines: Engines) -> tuple[Turn, list[Event]]:
    """A turn with the gate shut, as teaching runs it."""

    async def run() -> list[Event]:
        context = Context(engines, folder, gate=True)
        stream = make_graph().astream({"text": "hello"}, context=context, stream_mode="custom")
        return [event async for event in stream]

    events = asyncio.run(run())
    assert isinstance(events[-1], Done)
    return events[-1].turn, events


def test_the_gate_sends_a_reply_back_with_the_reason(tmp_path: Path) -> None:
    reasoner = FakeReasoner(answer("Bad."), answer("Good."))
    engines = fake_engines(reasoning=reasoner, judging=FakeJudge(scores("too short"), scores()))
    turn, events = teach(tmp_path, engines)
    assert turn.reply is not None
    assert turn.reply.text == "Good."
    assert turn.failures == ()
    assert [event for event in events if isinstance(event, Again)] == [Again(("too short",))]
    assert [(p.attempt, list(p.complaints)) for p in reasoner.asked] == [(0, []), (1, ["too short"])]


def test_what_still_fails_after_two_revisions_is_recorded_as_rejected(tmp_path: Path) -> None:
    reasoner = FakeReasoner(*[answer("Bad.") for _ in range(3)])
    engines = fake_engines(reasoning=reasoner, judging=FakeJudge(*[scores("too short")] * 3))
    turn, _ = teach(tmp_path, engines)
    assert len(reasoner.asked) == 3
    assert [(f.stage, f.kind) for f in turn.failures] == [("judging", "rejected")]
    assert "too short" in turn.failures[0].message
    assert not turn.is_target


def test_in_a_chat_the_judge_only_scores(tmp_path: Path) -> None:
    turn, events = take(tmp_path, fake_engines(judging=FakeJudge(scores("too short"))))
    assert turn.scores == scores("too short")
    assert turn.failures == ()
    assert kinds(events).index("Answered") < kinds(events).index("Done")
    assert not any(isinstance(event, Again) for event in events)


def test_analyzers_work_side_by_side(tmp_path: Path) -> None:
    parts = fake_engines()
    engines = fake_engines(
        asr=FakeRecognizer(slow(0.4, heard("x"))),
        **{
            stage: FakeAnalyzer(slow(0.4, parts[stage].answers[0]))
            for stage in ("emotion", "speaker", "events", "prosody")
        },
    )
    turn, events = take(tmp_path, engines)
    alone = sum(turn.timings.stages_s[stage] for stage in ("asr", "emotion", "speaker", "events", "prosody"))
    assert turn.timings.total_s < 0.6 * alone
    assert any(isinstance(event, Perceived) for event in events)


def test_the_drawing_shows_the_flow() -> None:
    edges = {(edge.source, edge.target) for edge in make_graph().get_graph().edges}
    listeners = ("asr", "emotion", "speaker", "events", "prosody")
    assert {("begin", stage) for stage in listeners} | {(stage, "perceive") for stage in listeners} <= edges
    after = [("perceive", "respond"), ("respond", "listen_back"), ("listen_back", "respond"), ("listen_back", "record")]
    assert {*after, ("record", "__end__"), ("__start__", "begin"), ("begin", "perceive")} <= edges


def test_langgraph_json_names_graphs_that_compile() -> None:
    for target in json.loads((ROOT / "langgraph.json").read_text())["graphs"].values():
        path, name = target.split(":")
        module = path.removeprefix("./").removesuffix(".py").replace("/", ".")
        code = f"import {module} as m; print(m.{name}().name)"
        shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "teacher"


def test_a_server_runs_it_without_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_SERVED", str(tmp_path / "served"))
    monkeypatch.setattr("graphs.begin._served_engines", lambda _: fake_engines())
    values = asyncio.run(graph().ainvoke({"text": "hello"}))
    turn = Turn.model_validate(values["turn"])
    assert turn.reply is not None
    assert turn.problems_of_audio(next((tmp_path / "served").iterdir())) == []
    assert begin._served == {}
    with pytest.raises(InputError, match="spoken or typed"):
        asyncio.run(graph().ainvoke({}))
    assert begin._served == {}, "a refused turn leaves nothing behind"
    assert len(list((tmp_path / "served").iterdir())) == 1


def test_a_thought_comes_before_its_words(tmp_path: Path) -> None:
    _, events = take(tmp_path, fake_engines())
    names = kinds(events)
    assert names.index("Thinking") < names.index("Sentence")
    assert isinstance(events[names.index("Answered")], Answered)
    assert isinstance(events[names.index("Thinking")], Thinking)
