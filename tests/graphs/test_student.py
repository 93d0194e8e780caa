"""The student behind the teacher's state: the same events and records, nothing grave answered by it, no failure a reply."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_student import RATE, FakeSpeechLM, answer, sound, student, think
from fakes import fake_engines, tone

from cascade.cancel import CancelScope
from cascade.reasoning.crisis import names_help
from cascade.turn import Exchange, Turn
from e2e_model.errors import StudentError
from e2e_model.respond import End, Said, Text
from graphs import teacher
from graphs.session import Session, open_session
from graphs.state import Again, Answered, Done, Event, Heard, Perceived, Sentence, Sound, Thinking
from graphs.student import make_graph
from graphs.student_engine import cues_of, in_one_thread

ROOT = Path(__file__).parents[2]
GRAVE = "i want to kill myself"


def turns_with(home: Path, lm: FakeSpeechLM, *said: dict[str, Any], **options: Any) -> tuple[list[Turn], list[Event]]:
    async def run() -> list[Event]:
        async with open_session(home, "s", student(lm, **options), make=make_graph) as session:
            return [event for one in said async for event in session.ask(**one)]

    events = asyncio.run(run())
    return [event.turn for event in events if isinstance(event, Done)], events


def spoken() -> dict[str, Any]:
    return {"speech": tone()}


def test_a_spoken_turn_leaves_the_teachers_events_and_a_whole_record(tmp_path: Path) -> None:
    lm = FakeSpeechLM(answer())
    (turn,), events = turns_with(tmp_path, lm, {"speech": tone(), "seed": 5}, think="language", vector=False)
    order = [Heard, Perceived, Thinking, Sound, Sentence, Sentence, Sound, Answered, Done]
    assert [type(event) for event in events if not isinstance(event, Sentence)] == [
        kind for kind in order if kind is not Sentence
    ]
    assert [event.text for event in events if isinstance(event, Sentence)] == ["That is hard.", "What happened then?"]
    (asked,) = lm.asked
    assert np.array_equal(asked["samples"], tone().samples)
    assert (asked["sample_rate"], asked["text"], asked["task"]) == (RATE, None, "speech→speech")
    assert (asked["think"], asked["vector"], asked["seed"], asked["history"]) == ("language", False, 5, [])
    assert turn.is_target
    assert turn.transcript is not None
    assert (turn.transcript.text, turn.transcript.engine, turn.transcript.confidence) == (
        "i lost my job",
        "student",
        None,
    )
    assert turn.thought is not None
    assert (turn.thought.emotion, turn.thought.events, turn.thought.gender) == ("sad", ("cry",), None)
    assert turn.thought.reasoning == think().text
    assert turn.reply is not None
    assert (turn.reply.text, turn.reply.emotion) == ("That is hard. What happened then?", "comforting")
    folder = tmp_path / "sessions" / "s"
    assert turn.problems_of_audio(folder) == []
    assert turn.reply_audio is not None
    assert turn.reply_audio.duration_s == pytest.approx(0.96)
    assert turn.scores is None
    assert Turn.model_validate_json((folder / "turn-0000.json").read_text()) == turn


def test_the_record_says_who_answered_with_what_and_how_long_it_took(tmp_path: Path) -> None:
    (turn,), events = turns_with(tmp_path, FakeSpeechLM(answer()), spoken())
    assert set(turn.engines) == {"asr", "emotion", "speaker", "events", "reasoning", "tts"}
    info = turn.engines["reasoning"]
    assert info.name == "student"
    assert info.options.pop("peak_memory_mb") > 10
    assert info.options == {"flavour": "nano", "parameters": 7, "think": "tag", "vector": True, "device": "cpu"}
    assert set(turn.timings.stages_s) == {"think", "write", "speak"}
    first = next(event for event in events if isinstance(event, Sound))
    assert turn.timings.first_sound_s == first.at_s
    assert 0 < first.at_s <= turn.timings.total_s


def test_cues_are_the_heads_distributions_and_the_rest_is_unknown(tmp_path: Path) -> None:
    (turn,), _ = turns_with(tmp_path, FakeSpeechLM(answer()), spoken())
    cues = turn.cues
    assert cues.emotion is not None
    assert cues.emotion.probabilities == {"sad": 0.7, "neutral": 0.3}
    assert cues.gender is not None
    assert (cues.gender.label, cues.gender.engine) == (None, "none")
    assert cues.events is not None
    assert cues.events.events is not None
    assert [(event.kind, event.end_s, event.confidence) for event in cues.events.events] == [("cry", 1.0, 0.8)]
    assert cues.prosody is None


@pytest.mark.parametrize(
    ("changes", "part", "label", "unknown"),
    [
        ({"probabilities": {"emotion": {"sad": 0.4, "weary": 0.6}}}, "emotion", None, 0.6),
        ({"probabilities": {"emotion": {"sad": 0.75, "unknown": 0.25}}}, "emotion", "sad", 0.25),
        ({"probabilities": {"gender": {"male": 0.45, "female": 0.55}}}, "gender", "female", 0.0),
    ],
)
def test_a_label_of_another_set_is_a_share_that_cannot_tell(
    changes: dict[str, Any], part: str, label: str | None, unknown: float
) -> None:
    cue = getattr(cues_of(think(**changes), 1.0), part)
    assert cue.label == label
    assert cue.unknown == pytest.approx(unknown)


def test_what_is_not_told_is_not_made_up() -> None:
    nothing = cues_of(think(probabilities={}, events=None), 1.0)
    assert nothing.model_dump(exclude_none=True) == {}
    assert cues_of(think(events=("cry", "yodel")), 1.0).events is None
    quiet = cues_of(think(events=()), 1.0).events
    assert quiet is not None
    assert quiet.events == ()


def test_speech_of_another_rate_is_given_at_the_students_own(tmp_path: Path) -> None:
    lm = FakeSpeechLM(answer())
    turns_with(tmp_path, lm, {"speech": tone(rate=44_100)})
    assert (len(lm.asked[0]["samples"]), lm.asked[0]["sample_rate"]) == (RATE, RATE)


def test_without_a_think_there_is_a_reply_but_no_thought(tmp_path: Path) -> None:
    bare = think(text="", strategy=None, reply_emotion=None, emotion=None)
    (turn,), events = turns_with(tmp_path, FakeSpeechLM(answer(first=bare)), spoken(), think="none")
    assert not [event for event in events if isinstance(event, Thinking)]
    assert turn.reply is not None
    assert turn.thought is None


def test_a_typed_turn_is_answered_aloud(tmp_path: Path) -> None:
    lm = FakeSpeechLM(answer(first=think(heard=None, probabilities={}, emotion=None)))
    (turn,), events = turns_with(tmp_path, lm, {"text": "I lost my job."})
    assert (lm.asked[0]["samples"], lm.asked[0]["text"], lm.asked[0]["task"]) == (None, "I lost my job.", "text→speech")
    assert turn.source == "text"
    assert turn.transcript is not None
    assert (turn.transcript.text, turn.transcript.engine) == ("I lost my job.", "typed")
    assert turn.cues.emotion is not None
    assert turn.cues.emotion.reason == "typed, not spoken"
    assert turn.is_target
    assert len([event for event in events if isinstance(event, Perceived)]) == 1


def test_memory_survives_and_reaches_the_student(tmp_path: Path) -> None:
    lm = FakeSpeechLM(answer(said="One."), answer(said="Two."), answer(said="Three."))
    turns_with(tmp_path, lm, {"text": "first"}, {"text": "second"})
    turns_with(tmp_path, lm, spoken())
    assert [asked["history"] for asked in lm.asked] == [
        [],
        [Said("first", "One.")],
        [Said("first", "One."), Said("second", "Two.")],
    ]


def test_a_session_goes_from_the_teacher_to_the_student_and_back(tmp_path: Path) -> None:
    async def run() -> list[Exchange]:
        lm = FakeSpeechLM(answer(said="Two."))
        async with open_session(tmp_path, "s", fake_engines(2)) as session:
            async for _ in session.ask(speech=tone()):
                pass
        async with open_session(tmp_path, "s", student(lm), make=make_graph) as session:
            (turn,) = [event.turn async for event in session.ask(speech=tone()) if isinstance(event, Done)]
            assert lm.asked[0]["history"] == [Said("i lost my job", "That is hard. What happened then?")]
            assert set(turn.timings.stages_s) == {"think", "write", "speak"}  # none of the teacher's
            assert turn.failures == ()
        async with open_session(tmp_path, "s", fake_engines(1)) as session:
            async for _ in session.ask(speech=tone()):
                pass
            return await session.history()

    assert [one.replied for one in asyncio.run(run())][1] == "Two."


# --- words of crisis


def test_words_of_crisis_are_answered_by_fixed_words_in_the_students_voice(tmp_path: Path) -> None:
    ended = threading.Event()

    def own(stop: Callable[[], bool]) -> Iterator[Any]:
        """Goes on writing until it is stopped."""
        while not stop():
            yield Text("Cheer up. ")
        ended.set()
        yield End("stopped", "")

    lm = FakeSpeechLM([think(GRAVE), own])
    (turn,), events = turns_with(tmp_path, lm, spoken())
    assert ended.wait(5), "the student went on"
    assert turn.reply is not None
    assert names_help(turn.reply.text)
    assert "Cheer" not in "".join(event.text for event in events if isinstance(event, Sentence | Sound))
    assert turn.thought is not None
    assert (turn.thought.strategy, turn.thought.topic) == ("care", "crisis")
    assert turn.transcript is not None
    assert turn.transcript.text == GRAVE
    assert [(text, emotion) for text, emotion in lm.spoken if text not in turn.reply.text] == []
    assert {emotion for _, emotion in lm.spoken} == {"comforting"}
    assert turn.reply_audio is not None
    assert turn.failures == ()


def test_typed_words_of_crisis_and_what_follows_never_reach_the_student(tmp_path: Path) -> None:
    lm = FakeSpeechLM()
    (first, second), _ = turns_with(tmp_path, lm, {"text": "I want to die."}, {"text": "I do not know."})
    assert lm.asked == []
    for turn in (first, second):
        assert turn.thought is not None
        assert turn.thought.strategy == "care"
        assert turn.reply is not None
        assert names_help(turn.reply.text)


def test_a_student_that_answers_later_is_told_nothing_of_it(tmp_path: Path) -> None:
    lm = FakeSpeechLM(answer(said="Good."))
    turns, _ = turns_with(tmp_path, lm, {"text": "hello"}, {"text": "I want to die."}, {"text": "I was only joking."})
    del turns
    lm = FakeSpeechLM(answer(said="Lovely."))
    turns_with(tmp_path, lm, {"text": "My sister bought a red bicycle."})
    assert lm.asked[0]["history"][0] == Said("hello", "Good.")
    assert "die" not in str(lm.asked[0]["history"])


@pytest.mark.parametrize("broken", [{"voice": False}, {"cut": True}])
def test_where_its_voice_fails_the_fixed_words_are_shown_and_count(tmp_path: Path, broken: dict[str, bool]) -> None:
    lm = FakeSpeechLM(**broken)
    (turn,), events = turns_with(tmp_path, lm, {"text": "I want to die."})
    assert turn.reply is not None
    assert " ".join(event.text for event in events if isinstance(event, Sentence)) == turn.reply.text
    assert names_help(turn.reply.text)
    assert len(lm.spoken) == 1
    assert turn.reply_audio is None
    assert turn.heard_text is None
    assert [(failure.stage, failure.kind) for failure in turn.failures] == [("tts", "failed")]
    assert not turn.is_target


# --- failures


FAULTS: dict[str, tuple[list[Any], str]] = {
    "error": ([think(), Text("That is"), sound(), RuntimeError("boom")], "RuntimeError: boom"),
    "own error": ([think(), StudentError("too long a history")], "student: too long a history"),
    "no end": ([think(), Text("Yes."), sound()], "broke off"),
    "cut off": ([think(), Text("Yes and"), sound(), End("length", "Yes and")], "cut off"),
    "no words": ([think(), sound(), End("end", " ")], "no reply"),
    "no sound": ([think(), Text("Yes."), End("end", "Yes.")], "not spoken"),
    "no transcript": ([think(None), Text("Yes."), sound(), End("end", "Yes.")], "words of crisis"),
    "no think": ([Text("Yes."), sound(), End("end", "Yes.")], "before it told what it heard"),
    "no numbers": ([think(probabilities={"age": {"adult": 3.0}}), End("end", "Yes.")], "sum to 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_never_a_reply(tmp_path: Path, fault: str) -> None:
    answers, why = FAULTS[fault]
    (turn, after), _ = turns_with(tmp_path, FakeSpeechLM(answers, answer()), spoken(), spoken())
    assert turn.reply is None
    assert not turn.is_target
    (failure,) = turn.failures
    assert why in failure.message
    assert "\n" not in failure.message
    assert after.reply is not None, "the next turn is answered all the same"


def test_a_reply_that_may_be_said_to_nobody_is_not(tmp_path: Path) -> None:
    lm = FakeSpeechLM([think(), Text("Calm"), Text(" down. Really."), sound(), End("end", "Calm down. Really.")])
    (turn,), events = turns_with(tmp_path, lm, spoken())
    assert [(failure.stage, failure.kind) for failure in turn.failures] == [("reasoning", "rejected")]
    assert turn.reply is None
    assert not [event for event in events if isinstance(event, Sentence | Sound | Again)]


def test_a_stop_ends_the_student_within_one_step_and_keeps_what_was_heard(tmp_path: Path) -> None:
    scope, ended, steps = CancelScope(), threading.Event(), []

    def endless(stop: Callable[[], bool]) -> Iterator[Any]:
        yield Text("One two three four five six seven eight nine ten eleven twelve thirteen fourteen. ")
        yield sound(1.0)
        scope.cancel()
        while not stop():
            steps.append(1)
            yield sound(1.0)
        ended.set()
        yield End("stopped", "One")

    async def run() -> tuple[Turn, list[Exchange]]:
        lm = FakeSpeechLM([think(), endless])
        async with open_session(tmp_path, "s", student(lm), make=make_graph) as session:
            (turn,) = [e.turn async for e in session.ask(speech=tone(), cancel=scope) if isinstance(e, Done)]
            return turn, await session.history()

    turn, history = asyncio.run(run())
    assert ended.wait(5)
    assert steps == []
    assert turn.reply is None
    assert turn.failures == ()
    assert turn.heard_text is not None
    assert not turn.heard_text.endswith("fourteen.")
    assert history[0].replied == turn.heard_text


# --- a turn taken up again, and the parts


CRASHING = """
import asyncio, os, signal, sys, time
from pathlib import Path
from fake_student import FakeSpeechLM, answer, student, think
from fakes import tone
from graphs.session import open_session
from graphs.student import make_graph

def die(stop):
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    lm = FakeSpeechLM(answer(said="One."), [think(), die])
    async with open_session(Path(sys.argv[1]), "s", student(lm), make=make_graph) as session:
        for _ in range(2):
            async for event in session.ask(speech=tone()):
                pass

asyncio.run(main())
"""


@pytest.mark.parametrize("other", ["student", "teacher"])
def test_kill_9_in_the_middle_of_an_answer_and_the_turn_is_answered_again(tmp_path: Path, other: str) -> None:
    command = [sys.executable, "-c", "import sys; sys.path[:0] = ['.', 'tests']\n" + CRASHING, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == -9

    async def resumed(session: Session) -> list[Exchange]:
        assert await session.unfinished()
        async for _ in session.resume():
            pass
        return await session.history()

    async def run() -> list[Exchange]:
        engines = student(FakeSpeechLM(answer(said="Two."))) if other == "student" else fake_engines()
        make = make_graph if other == "student" else teacher.make_graph
        async with open_session(tmp_path, "s", engines, make=make) as session:
            return await resumed(session)

    replied = "Two." if other == "student" else "That is hard. What happened then?"
    assert [one.replied for one in asyncio.run(run())] == ["One.", replied]


def test_a_stream_runs_in_one_thread_and_raises_where_it_is_read() -> None:
    def threads() -> Iterator[int]:
        yield threading.get_ident()
        yield threading.get_ident()
        raise ValueError("at the end")

    stream = in_one_thread(threads)
    first = next(stream)
    assert first == next(stream) != threading.get_ident()
    with pytest.raises(ValueError, match="at the end"):
        next(stream)


def test_the_diagram() -> None:
    edges = {(edge.source, edge.target) for edge in make_graph().get_graph().edges}
    assert edges == {
        ("__start__", "begin"),
        ("begin", "answer"),
        ("answer", "care"),
        ("answer", "record"),
        ("care", "record"),
        ("record", "__end__"),
    }
